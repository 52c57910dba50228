"""Top-k: the k entries of largest magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from decentral.comm.compression import loops
from decentral.comm.compression.blocks import BLOCK
from decentral.comm.compression.compressor import Encoded
from decentral.comm.compression.marks import positions_of
from decentral.comm.compression.packets import Array, end, join, numpy_type, take
from decentral.comm.compression.positions import pack_positions, take_positions
from decentral.comm.compression.sparsifier import Sparsifier
from decentral.comm.layout import Layout
from decentral.kernels import repaid

_SAMPLE = 1 << 12  # magnitudes that guess the threshold; a wrong guess costs time, never exactness


@dataclass(frozen=True)
class TopK(Sparsifier):
    """The k = max(1, round(fraction d)) entries of largest |x_i|, of equal ones the first.

        C(x)_i = x_i where |x_i| is among the k largest, else 0;   |x - C(x)|^2 <= (1 - k/d) |x|^2

    Bytes: k values, and k positions in the shortest form of :mod:`decentral.comm.compression.positions`.
    Cost: some passes over x and a selection among few candidates; nothing of length d is sorted.
    Reference: Stich, Cordonnier, Jaggi, NeurIPS 2018, arXiv 1809.07599.
    """

    name: ClassVar[str] = "top-k"

    def _encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        positions = largest(x.numpy(), self.kept(layout.d))
        values = x.numpy()[positions]
        if not np.isfinite(values).all():
            self._check_finite(x)
        sent = torch.zeros_like(x)
        sent.numpy()[positions] = values
        return Encoded(torch.cat([join(values), pack_positions(positions, layout.d)]), sent, state)

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """The values at their positions, zero elsewhere."""
        k = self.kept(layout.d)
        values, packet = take(packet, k, numpy_type(dtype))
        positions, packet = take_positions(packet, k, layout.d)
        end(packet)
        x = torch.zeros(layout.d, dtype=dtype)
        x.numpy()[positions] = values
        return x


def largest(x: Array, k: int) -> Array:
    """Positions (k,), ascending, of the k largest |x_i| of (d,), of equal ones the first; NaN is larger than all.

    A threshold guessed low from a sample leaves few candidates; where it leaves fewer than k, all d are candidates.
    """
    d = len(x)
    sample = _sizes(x[:: -(-d // _SAMPLE)])
    expected = k * len(sample) / d
    rank = int(expected + 4 * expected**0.5) + 1  # 4 standard deviations: too few candidates hardly ever
    if rank < len(sample):
        candidates = positions_of(_not_below(x, np.partition(sample, -rank)[-rank].view(x.dtype)))
        if len(candidates) >= k:
            return candidates[_largest(_sizes(x[candidates]), k)]
    return _largest(_sizes(x), k)


def _sizes(x: Array) -> Array:
    """|x_i| as whole numbers in the same order: the bits without the sign."""
    bits = x.view(np.dtype(f"i{x.itemsize}"))
    sizes: Array = bits & np.iinfo(bits.dtype).max
    return sizes


def _not_below(x: Array, least: Any) -> Array:
    """Whether not |x_i| < least, so also for NaN: bool (d,)."""
    marks = np.empty(len(x), np.bool_)
    if repaid(len(x)):
        loops.mark_not_below(x, least, marks)
        return marks
    above = np.empty(BLOCK, np.bool_)
    for start in range(0, len(x), BLOCK):
        one = slice(start, min(start + BLOCK, len(x)))
        np.less(x[one], least, out=marks[one])
        marks[one] &= np.greater(x[one], -least, out=above[: one.stop - start])
    return np.logical_not(marks, out=marks)


def _largest(sizes: Array, k: int) -> Array:
    least = np.partition(sizes, -k)[-k]
    chosen = sizes > least
    chosen[np.flatnonzero(sizes == least)[: k - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen)
