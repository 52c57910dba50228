"""Inner products of workers' vectors, summed in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = 2048  # fixed and few: products are summed in one order, whatever the number of workers and threads
_ELEMENTS = 1 << 16  # at once, so that they stay in cache


def dots(a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_i> of each row of (h, d): (h, 1), summed in float64; each row by itself."""
    import torch

    h, d = a.shape
    sums, width = a.new_zeros((h, 1), dtype=torch.float64), _COLUMNS * max(1, _ELEMENTS // (_COLUMNS * h))
    for start in range(0, d, width):
        products = a[:, start : start + width].double() * b[:, start : start + width].double()
        whole = products.shape[1] // _COLUMNS
        parts = [products[:, : whole * _COLUMNS].view(h, whole, _COLUMNS).sum(2)] if whole else []
        if rest := products.shape[1] % _COLUMNS:
            parts.append(products[:, -rest:].sum(1, keepdim=True))
        for part in parts:
            sums = torch.cat([sums, part], 1).cumsum(1)[:, -1:]  # one after the other
    return sums
