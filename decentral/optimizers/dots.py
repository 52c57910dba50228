"""Inner products of workers' vectors, summed in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = 2048  # fixed and few: products are summed in one order, whatever the number of workers and threads


def dots(a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_i> of each row of (h, d): (h, 1), summed in float64; each row by itself."""
    import torch

    sums = a.new_zeros(len(a), dtype=torch.float64)
    for start in range(0, a.shape[1], _COLUMNS):
        stop = start + _COLUMNS
        sums += (a[:, start:stop].double() * b[:, start:stop].double()).sum(1)
    return sums[:, None]
