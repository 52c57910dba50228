"""Top-k: the k entries of largest magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from decentral.compression.compressor import Encoded
from decentral.compression.layout import Layout
from decentral.compression.packets import Array, end, join, numpy_type, take
from decentral.compression.positions import pack_positions, take_positions
from decentral.compression.sparsifier import Sparsifier

_SAMPLE = 1 << 13  # magnitudes that guess the threshold; a wrong guess costs time, never exactness


@dataclass(frozen=True)
class TopK(Sparsifier):
    """The k = max(1, round(fraction d)) entries of largest |x_i|, of equal ones the first.

        C(x)_i = x_i where |x_i| is among the k largest, else 0;   |x - C(x)|^2 <= (1 - k/d) |x|^2

    Bytes: k values, and k positions in the shortest form of :mod:`decentral.compression.positions`.
    Cost: some passes over x and a selection among few candidates; nothing of length d is sorted.
    Reference: Stich, Cordonnier, Jaggi, NeurIPS 2018, arXiv 1809.07599.
    """

    name: ClassVar[str] = "top-k"

    def _encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        positions = largest(x.abs().numpy(), self.kept(layout.d))
        values = x.numpy()[positions]
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


def largest(sizes: Array, k: int) -> Array:
    """Positions (k,), ascending, of the k largest of (d,), of equal ones the first.

    A threshold guessed low from a sample leaves few candidates; where it leaves fewer than k, all d are candidates.
    """
    d = len(sizes)
    sample = sizes[:: -(-d // _SAMPLE)]
    expected = k * len(sample) / d
    rank = int(expected + 4 * expected**0.5) + 1  # 4 standard deviations: too few candidates hardly ever
    if rank < len(sample):
        candidates = np.flatnonzero(sizes >= np.partition(sample, -rank)[-rank])
        if len(candidates) >= k:
            return candidates[_largest(sizes[candidates], k)]
    return _largest(sizes, k)


def _largest(sizes: Array, k: int) -> Array:
    least = np.partition(sizes, -k)[-k]
    chosen = sizes > least
    chosen[np.flatnonzero(sizes == least)[: k - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen)
