"""Gossip-PGA: gossip, and the exact average now and then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.algorithms.local_sgd import LocalSGD
from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


@dataclass(frozen=True)
class GossipPGA(LocalSGD):
    """Decentralized momentum SGD with periodic global averaging.

        m = beta m + g
        x = W (x - lr m);    in every ``every``-th round    x = mean(x - lr m)

    Cost: one vector of d numbers to each neighbour a round; in every ``every``-th round one all-reduce instead.
    Fixed point: between that of DmSGD (every round gossips) and of PmSGD (every = 1, no bias).
    Unstable where DmSGD is, if averages are too rare to make up for it.
    Reference: Chen, Yuan, Zhang, Pan, Xu, Yin, ICML 2021, arXiv 2105.09080.
    """

    traits: ClassVar[Traits] = Traits(title="Gossip-PGA")

    every: int = 6

    def between(self, x: Tensor, comm: Mixer) -> Tensor:
        """W x."""
        return comm.mix_(x)
