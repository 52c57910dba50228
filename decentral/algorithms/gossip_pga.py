"""Gossip-PGA: gossip, and the exact average now and then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decentral.algorithms.local_sgd import check_every, is_due
from decentral.algorithms.momentum import Momentum, accumulate, check_momentum

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm import Communicator


@dataclass(frozen=True)
class GossipPGA:
    """Decentralized momentum SGD with periodic global averaging.

        m = beta m + g
        x = W (x - lr m);    in every ``every``-th round    x = mean(x - lr m)

    Cost: one vector of d numbers to each neighbour a round; in every ``every``-th round one all-reduce instead.
    Fixed point: between that of DmSGD (every round gossips) and of PmSGD (every = 1, no bias).
    Unstable where DmSGD is, if averages are too rare to make up for it.
    Reference: Chen, Yuan, Zhang, Pan, Xu, Yin, ICML 2021, arXiv 2105.09080.
    """

    every: int = 6
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_every(self.every)
        check_momentum(self.momentum)

    def init(self, x: Tensor, comm: Communicator) -> Momentum:
        """Zero momentum."""
        del comm
        return Momentum(x.new_zeros(x.shape))

    def step(
        self, x: Tensor, state: Momentum, g: Tensor, comm: Communicator, lr: float
    ) -> tuple[Tensor, Momentum]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        m = accumulate(state.m, self.momentum, g)
        x = x.sub_(m, alpha=lr)
        return (x.copy_(comm.mean(x)) if is_due(self.every, comm) else comm.mix_(x)), Momentum(m)
