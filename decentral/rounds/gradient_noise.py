"""The noise of a round's gradients: two unbiased estimates from the gradients that workers have computed anyway.

n workers have gradients g_k of b samples each, drawn independently, with mean G and covariance Sigma / b. Each pair of
workers j, k gives an estimate of the squared mean and one of the noise of a single sample's gradient:

    |G|^2       ~  <g_j, g_k>
    tr(Sigma)   ~  (b / 2) |g_j - g_k|^2

and their ratio, tr(Sigma) / |G|^2, is the simple noise scale (arXiv:1812.06162, equation 2.9). The mean of both over
all pairs is the estimator of its appendix A.1 with the small norm averaged over the workers:

    S = b / (n - 1) sum_k |g_k - gbar|^2,      |G|^2 = |gbar|^2 - S / (b n)

Each mean is unbiased, a ratio of two is not; |G|^2 may come out negative. Under gossip workers have gradients at models
of their own, and pairs are the edges of the round's W: with models apart by delta the estimates are off by O(delta).
Where workers' data differ, so do their mean gradients: S then has b times the variance of those in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from decentral.blocks import column_blocks

if TYPE_CHECKING:
    from decentral.comm import Communicator

Blocks = Sequence[tuple[slice, Tensor]]
"""A gradient (h, d) of the hosted workers in blocks of columns."""

_COLUMNS = 2048  # fixed and few: squares are summed in one order, whatever the number of workers and threads
_CARRIED = 1 << 22  # numbers of all workers that travel at a time


class Estimates(NamedTuple):
    """``noise``: S, of tr(Sigma), the variance of one sample's gradient. ``square``: of |G|^2."""

    noise: float
    square: float


def of_all_pairs(gradient: Blocks, comm: Communicator, batch: float) -> Estimates:
    """From all pairs of the n > 1 workers, with b = ``batch``, in two passes over the gradient. Every rank calls it."""
    apart, centre = _sums(gradient, comm.h), _sums(gradient, 1)
    for _, g in gradient:
        mean = comm.observe_mean(g)
        for part in column_blocks(slice(0, g.shape[1]), _COLUMNS):
            middle = mean[:, part].double()
            apart += (g[:, part].double() - middle).square_().sum(1)
            centre += middle.square().sum(1)
    squares = comm.observe(apart.cpu().numpy())
    noise = batch * float(squares.sum()) / (comm.n - 1)
    return Estimates(noise, float(centre) - noise / (batch * comm.n))


def of_neighbours(gradient: Blocks, comm: Communicator, batch: float) -> Estimates | None:
    """From the directed edges of the round that ``comm`` was told, with b = ``batch``; None if it has none.

    Neighbours' gradients travel for it, which is not billed. Every rank calls it.
    """
    senders, receivers = comm.edges_in[:, 0], comm.edges_in[:, 1] - comm.rows.start
    products, squares = _sums(gradient, len(receivers)), _sums(gradient, comm.h)
    at = torch.from_numpy(receivers).to(products.device)
    width = _COLUMNS * max(1, _CARRIED // (_COLUMNS * comm.n))  # of all ranks alike
    for _, g in gradient:
        for start in range(0, g.shape[1], width):
            own = g[:, start : start + width]
            theirs = comm.observe_neighbours(own)
            for part in column_blocks(slice(0, own.shape[1]), _COLUMNS):
                mine = own[:, part].double()
                products += theirs[:, part].double().mul_(mine[at]).sum(1)
                squares += mine.square().sum(1)
    product, of_all = products.cpu().numpy(), comm.observe(squares.cpu().numpy())
    apart = of_all[comm.edges_in[:, 1]] + of_all[senders] - 2 * product
    sums = [np.bincount(receivers, value, comm.h) for value in (np.ones_like(product), product, apart)]
    edges, inner, square = comm.observe(np.stack(sums, axis=1)).sum(axis=0)
    if not edges:
        return None
    return Estimates(batch / 2 * float(square / edges), float(inner / edges))


def _sums(gradient: Blocks, rows: int) -> Tensor:
    """(rows,) zeros to sum in, beside the gradient."""
    return torch.zeros(rows, dtype=torch.float64, device=gradient[0][1].device)
