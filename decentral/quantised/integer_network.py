"""A network of integers: numpy alone, no number that is not an integer on the way from pixels to sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from decentral.quantised.shared_shift import FixedPoint

Integers = NDArray[Any]
_CHUNK = 250  # images whose windows are in memory at once


@dataclass(frozen=True, eq=False)
class IntegerConvolution:
    """y = clip((A x + B) >> n, 0, 2^activation_bits - 1) of the sums x of a convolution of odd side, padded with zeros.

    ``weight`` (outputs, inputs, side, side); ``scale`` A and ``shift`` B (outputs,); ``bits`` n, one for the layer.
    ``reach``: R, which no sum exceeds, whatever the images; ``fan_in_reach``: the same from fan-in and bits alone.
    """

    weight: Integers
    stride: int
    scale: Integers
    shift: Integers
    bits: int
    weight_bits: int
    activation_bits: int
    reach: int
    fan_in_reach: int

    def __call__(self, x: Integers) -> Integers:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride), int32."""
        most = (1 << self.activation_bits) - 1
        wide: type[np.int32] | type[np.int64] = np.int32 if self.width <= 32 else np.int64
        a, b = (one.astype(wide)[:, None, None] for one in (self.scale, self.shift))
        moved: Integers = a * self.sums(x).astype(wide, copy=False) + b
        y: Integers = np.clip(moved >> self.bits, 0, most)
        return y.astype(np.int32)

    def sums(self, x: Integers) -> Integers:
        """The convolution before that, int32."""
        outputs, _, side, _ = self.weight.shape
        edge = side // 2
        padded = np.pad(x.astype(np.int32), ((0, 0), (0, 0), (edge, edge), (edge, edge)))
        windows = sliding_window_view(padded, (side, side), (2, 3))[:, :, :: self.stride, :: self.stride]
        rows = windows.transpose(0, 2, 3, 1, 4, 5)  # (N, H', W', inputs, side, side)
        flat = rows.reshape(-1, self.weight[0].size)
        found = flat @ self.weight.reshape(outputs, -1).T.astype(np.int32)
        return found.reshape(*rows.shape[:3], outputs).transpose(0, 3, 1, 2)

    @property
    def fixed_point(self) -> FixedPoint:
        """A, B and n."""
        return FixedPoint(tuple(self.scale.tolist()), tuple(self.shift.tolist()), self.bits)

    @property
    def width(self) -> int:
        """Bits of A x + B."""
        return self.fixed_point.width(self.reach)


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Layers one after the other, then a linear layer (classes, features), whose sums decide.

    Inputs are the nearest integers of 2^``input_fraction`` times the images, of ``input_bits`` bits. ``step``: the
    float that makes logits of sums.
    """

    layers: tuple[IntegerConvolution, ...]
    head: Integers
    input_bits: int
    input_fraction: int
    step: float

    def inputs(self, images: NDArray[np.floating[Any]]) -> Integers:
        """Images in the numbers of the data set as integers; halves to even."""
        most = 1 << self.input_bits - 1
        found: Integers = np.clip(np.rint(images * (1 << self.input_fraction)), -most, most - 1).astype(
            np.int32
        )
        return found

    def __call__(self, images: NDArray[np.floating[Any]]) -> Integers:
        """Sums (N, classes), int64; their largest is the class."""
        return np.concatenate([list(self.outputs(part))[-1] for part in chunks(images)])

    def outputs(self, images: NDArray[np.floating[Any]]) -> Iterator[Integers]:
        """What each layer gives, then the sums of the head."""
        x = self.inputs(images)
        for layer in self.layers:
            x = layer(x)
            yield x
        yield x.reshape(len(x), -1).astype(np.int64) @ self.head.T.astype(np.int64)


def chunks(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Images in parts that go through a network at once; at least one part."""
    for a in range(0, max(1, len(images)), _CHUNK):
        yield images[a : a + _CHUNK]
