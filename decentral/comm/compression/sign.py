"""Sign: one bit an entry and the mean magnitude of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from decentral.comm.compression import loops
from decentral.comm.compression.bits import packed_bytes
from decentral.comm.compression.blocks import BLOCK
from decentral.comm.compression.compressor import Compressor, Encoded
from decentral.comm.compression.packets import Array, end, join, numpy_type, take
from decentral.comm.layout import Layout
from decentral.kernels import repaid


@dataclass(frozen=True)
class Sign(Compressor):
    """In each span of n entries C(x)_i = (|x|_1 / n) sign(x_i); the sign bit decides, so sign(0) = 1, sign(-0.) = -1.

        |x - C(x)|^2 = |x|^2 - |x|_1^2 / n   in each span, at most (1 - 1/n) |x|^2

    Bytes: ceil(d / 8), and one number of x's dtype for each span.
    Reference: Karimireddy, Rebjock, Stich, Jaggi, ICML 2019, arXiv 1901.09847.
    """

    name: ClassVar[str] = "sign"

    def _encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        values, sent, negative = x.numpy(), torch.empty_like(x), np.empty(layout.d, np.bool_)
        scales = np.array([_mean_magnitude(x[span.columns]) for span in layout.spans], values.dtype)
        if not np.isfinite(scales).all():
            self._check_finite(x)
            self._check_finite(torch.from_numpy(scales))
        bits = values.view(np.dtype(f"i{values.itemsize}"))
        split = loops.split_signs if repaid(layout.d) else _split_signs
        for span, scale in zip(layout.spans, scales.view(bits.dtype), strict=True):
            one = span.columns
            split(bits[one], scale, sent.numpy().view(bits.dtype)[one], negative[one])
        return Encoded(join(scales, np.packbits(negative)), sent, state)

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """Plus or minus the span's scale."""
        scales, packet = take(packet, len(layout.spans), numpy_type(dtype))
        packed, packet = take(packet, packed_bytes(layout.d, 1), np.uint8)
        end(packet)
        negative = np.unpackbits(packed, count=layout.d)
        x = torch.from_numpy(negative).to(dtype).mul_(-2).add_(1)
        for span, scale in zip(layout.spans, scales, strict=True):
            x[span.columns].mul_(float(scale))
        return x


def _split_signs(bits: Array, scale: Any, sent: Array, negative: Array) -> None:
    """The scale with the sign of x, both as whole numbers, (n,), and whether x is negative, bool (n,)."""
    for start in range(0, len(bits), BLOCK):
        one = slice(start, start + BLOCK)
        np.less(bits[one], 0, out=negative[one])
        copied = np.bitwise_and(bits[one], np.iinfo(bits.dtype).min, out=sent[one])
        copied |= scale


def _mean_magnitude(x: Tensor) -> float:
    """|x|_1 / n, in x's dtype by blocks, whose sums are added in float64; not finite where a block's sum is not.

    Not by BLAS, which would share out a long sum among threads of its own, whose number shows in the last bits.
    """
    return sum(float(x[start : start + BLOCK].abs().sum()) for start in range(0, len(x), BLOCK)) / len(x)
