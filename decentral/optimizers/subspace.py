"""Affine spaces x + span(P) of rows (h, d), a few directions a worker, and the descent in each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decentral.optimizers.conjugate import conjugate_gradients
from decentral.optimizers.rule import Mean

if TYPE_CHECKING:
    from torch import Tensor

OneBatch = Callable[["Tensor"], "tuple[Tensor, Tensor]"]
"""Models (h, d) -> the losses (h,) of one fixed batch of each, and the gradients (h, d) there."""
_COLUMNS = 2048  # summed in one order, whatever the number of workers and threads


class Descended(NamedTuple):
    """``x`` (h, d): the best model that each worker has tried; ``evaluations`` (h,) that this took."""

    x: Tensor
    evaluations: NDArray[np.int64]


def products(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products of the rows of two (h, d), (h,) in float64, with the same bits whoever else is hosted."""
    import torch

    total = a.new_zeros(len(a), dtype=torch.float64)
    for start in range(0, a.shape[1], _COLUMNS):
        block = slice(start, start + _COLUMNS)
        total += (a[:, block].double() * b[:, block]).sum(1)
    return total


def descend(x: Tensor, directions: Sequence[Tensor], evaluate: OneBatch, mean: Mean, most: int) -> Descended:
    """From x (h, d), each worker along ``directions``, m times (h, d), by at most ``most`` evaluations.

        f(x + sum_j alpha_j p_j),    gradient p_j' g        by conjugate gradients on alpha (m,), from 0

    All that have not ended are evaluated together. A worker's loss never ends above that at x: the best point is kept.
    """
    import torch

    h, m = len(x), len(directions)
    searches = [conjugate_gradients(m, most) for _ in range(h)]
    alpha = np.stack([next(search) for search in searches])
    best, lowest = np.zeros((h, m)), np.full(h, np.inf)
    evaluations, going = np.zeros(h, np.int64), set(range(h))
    while going:
        losses, g = evaluate(moved(x, directions, alpha))
        slopes = [losses.double(), *(products(p, g) for p in directions)]
        values = mean(torch.stack(slopes, 1)).expand(h, m + 1).cpu().numpy()
        for k in sorted(going):
            evaluations[k] += 1
            if values[k, 0] <= lowest[k]:  # of two that are alike, the later has the smaller slope
                best[k], lowest[k] = alpha[k], values[k, 0]
            try:
                alpha[k] = searches[k].send((float(values[k, 0]), values[k, 1:].copy()))
            except StopIteration:
                going.remove(k)
                alpha[k] = best[k]
    return Descended(moved(x, directions, best), evaluations)


def moved(x: Tensor, directions: Sequence[Tensor], alpha: NDArray[np.float64]) -> Tensor:
    """x + sum_j alpha_j p_j, for alpha (h, m), in the order of the directions."""
    y = x.clone()
    for p, along in zip(directions, x.new_tensor(alpha.T), strict=True):
        y.addcmul_(p, along[:, None])
    return y
