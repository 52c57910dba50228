"""MATCHA: gossip along randomly activated matchings of a graph, within a budget of communication."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import topologies
from decentral.algorithms.dmsgd import DmSGD
from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class MATCHA(DmSGD):
    """DSGD (or DmSGD, with ``momentum``) whose mixing matrix is drawn anew each round from the run's graph.

        W(t) = I - alpha sum_j B_j L_j,    B_j ~ Bernoulli(p_j)

    over the graph's matchings j: p makes the mean graph as connected as ``budget``, the share of matchings that are
    active, allows, and alpha fits p; see :func:`topologies.matcha`. ``seed``: of the draws, the same on all ranks.
    Cost: one vector along each edge of each active matching, which in the mean are the part ``budget`` of all.
    Fixed point: none, W never rests; in the mean DSGD's, O(lr^2 b^2) from the optimum in squared distance.
    Unstable where DmSGD is on the mean of W(t).
    Reference: Wang, Sahu, Yang, Joshi, Kar 2019, arXiv 1905.09435.
    """

    traits: ClassVar[Traits] = Traits(title="MATCHA", weights=None)

    momentum: float = 0.0
    budget: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.budget <= 1:
            raise ValueError(
                f"budget = {self.budget} must be above 0 and at most 1; 0.5 is half of the matchings"
            )

    def schedule(self, graph: nx.Graph) -> topologies.Schedule:
        """The mixing matrices that it makes of a connected undirected graph."""
        return topologies.matcha_of(graph, self.budget, self.seed)

    def rest(self) -> None:
        """Nowhere: W never rests."""
        return None
