"""What every compressor is: a vector to the bytes that are sent, and these bytes to what the receiver adds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from numpy.random import Generator
from torch import Tensor

from decentral.comm.layout import Layout
from decentral.errors import UserError


class Encoded(NamedTuple):
    """What encoding gives.

    ``packet``: uint8 (bytes,), exactly what travels, so ``len(packet)`` is what is billed.
    ``sent``: (d,), what the receiver will decode, in the same bits.
    ``state``: for the sender's next vector.
    """

    packet: Tensor
    sent: Tensor
    state: Any


class Compressor(ABC):
    """C, a map from vectors (d,) to vectors that need fewer bytes. Its fields are its keys in TOML.

    What the receiver knows beforehand is not sent: the compressor's fields, the layout, the dtype and, where both sides
    draw, the name of a stream. Each call gets a fresh generator, named by sender and round. Numbers lie in a packet as
    they lie in memory, so both sides have the same byte order. All tensors are on the CPU.
    """

    name: ClassVar[str]
    tells_layers: ClassVar[bool] = False  # whether ``bytes_by_kind`` can tell

    @property
    def unbiased(self) -> bool:
        """Whether E C(x) = x."""
        return False

    @property
    def keeps_residue(self) -> bool:
        """Whether what is left out joins the next vector."""
        return False

    def init(self, x: Tensor, layout: Layout) -> Any:
        """The sender's state before its first vector; x (d,) gives the dtype."""
        del x, layout
        return ()

    def encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        """The packet of x (d,), float32 or float64, which is left as it is; the state is consumed.

        Raises UserError where x or what would be sent is not finite; ValueError for another shape or dtype.
        """
        if x.shape != (layout.d,) or x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{self.name} got {x.dtype} {tuple(x.shape)}; give float32 or float64 of shape ({layout.d},)"
            )
        return self._encode(x, state, layout, draw)

    @abstractmethod
    def _encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        """``encode`` of what has the right shape and dtype; calls ``_check_finite``, best from a pass made anyway."""

    @abstractmethod
    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """C(x) (d,) of a packet of this layout and dtype; ``draw`` is a fresh generator of the sender's stream.

        Raises ValueError where the packet has not the length that it should.
        """

    def bytes_by_kind(self, packet: Tensor, layout: Layout, dtype: torch.dtype) -> dict[str, int]:
        """Kind of layer -> bytes of the packet that are its; empty where layers are not sent apart."""
        del packet, layout, dtype
        return {}

    def check_feedback(self) -> None:
        """Raises ValueError where error feedback would not stay bounded: E |x - C(x)|^2 < |x|^2 is not certain."""
        return

    def _check_finite(self, x: Tensor) -> None:
        if not math.isfinite(float(x.sum())):  # one pass where all is well; a sum may also overflow
            bad = int((~x.isfinite()).sum())
            if bad:
                raise UserError(
                    f"{self.name}: {bad} of {len(x)} numbers to be sent are NaN or infinite; lower the learning rate"
                )
