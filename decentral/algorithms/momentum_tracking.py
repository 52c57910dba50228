"""Momentum tracking: each worker follows the mean momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from decentral.algorithms.momentum import accumulate, check_momentum

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm import Communicator


class TrackedMomentum(NamedTuple):
    """m (h, d): the worker's own heavy-ball sum; c (h, d): how far that is above the mean of all."""

    m: Tensor
    c: Tensor


@dataclass(frozen=True)
class MomentumTracking:
    """Heavy-ball momentum of the own gradient; what is tracked, and descended along, is its mean.

        m = beta m + g
        x = W x - lr (m - c)
        c = W (c - m) + m                       (0 at first, and no global average to begin with)

    Cost: two vectors of d numbers (m - c, x) to each neighbour a round.
    Fixed point: every worker at the minimiser of (1/n) sum f_i, no bias.
    Unstable (A_i = a I, symmetric W, beta = 0, which is DIGing) unless lr a < (1 + lambda)^2 / 2 for every lambda of W.
    Reference: Takezawa et al., TMLR 2023, arXiv 2209.15505.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_momentum(self.momentum)

    def init(self, x: Tensor, comm: Communicator) -> TrackedMomentum:
        """Zero momentum."""
        del comm
        return TrackedMomentum(x.new_zeros(x.shape), x.new_zeros(x.shape))

    def step(
        self, x: Tensor, state: TrackedMomentum, g: Tensor, comm: Communicator, lr: float
    ) -> tuple[Tensor, TrackedMomentum]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        m = accumulate(state.m, self.momentum, g)
        v = m.sub(state.c)
        x = comm.mix_(x).sub_(v, alpha=lr)
        return x, TrackedMomentum(m, m.sub(comm.mix_(v)))
