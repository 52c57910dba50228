"""Random-k: k entries drawn alike by sender and receiver, so that only values travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from decentral.comm.compression.compressor import Encoded
from decentral.comm.compression.packets import Array, end, join, numpy_type, take
from decentral.comm.compression.sparsifier import Sparsifier
from decentral.comm.layout import Layout


@dataclass(frozen=True)
class RandomK(Sparsifier):
    """k = max(1, round(fraction d)) different entries, each set of k equally likely.

        C(x)_i = x_i (d/k if unbiased) where i is drawn, else 0
        E |x - C(x)|^2 = (1 - k/d) |x|^2;   unbiased: E C(x) = x, E |x - C(x)|^2 = (d/k - 1) |x|^2

    Bytes: k values. Positions come from ``draw``, which must be the same stream on both sides.
    Reference: Stich, Cordonnier, Jaggi, NeurIPS 2018, arXiv 1809.07599.
    """

    unbiased: bool = False

    name: ClassVar[str] = "random-k"

    def _encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        self._check_finite(x)
        positions = self._drawn(layout.d, draw)
        values = x.numpy()[positions]
        if self.unbiased:
            with np.errstate(over="ignore"):
                values = values * values.dtype.type(layout.d / len(positions))
            self._check_finite(torch.from_numpy(values))
        return Encoded(join(values), _scattered(positions, values, layout.d), state)

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """The values at the positions that ``draw`` gives, zero elsewhere."""
        positions = self._drawn(layout.d, draw)
        values, packet = take(packet, len(positions), numpy_type(dtype))
        end(packet)
        return _scattered(positions, values, layout.d)

    def check_feedback(self) -> None:
        """The unbiased form overshoots by d/k where it sends."""
        if self.unbiased:
            raise ValueError("random-k with unbiased = true cannot have error feedback; set unbiased = false")

    def _drawn(self, d: int, draw: Generator) -> Array:
        return draw.choice(d, self.kept(d), replace=False, shuffle=False)


def _scattered(positions: Array, values: Array, d: int) -> Tensor:
    x = np.zeros(d, values.dtype)
    x[positions] = values
    return torch.from_numpy(x)
