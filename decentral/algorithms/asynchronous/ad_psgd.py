"""AD-PSGD: asynchronous decentralized parallel SGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.algorithms.asynchronous.exchange import Exchange
from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.algorithms.asynchronous.side import Neighbourhood


@dataclass(frozen=True)
class ADPSGD:
    """Each worker at its own speed, with one random neighbour after the other.

        g_i at x_i as it is now;  what has come meanwhile is answered or added;  x_i <- x_i - lr g_i
        then, if none is out, a request to a neighbour j drawn uniformly: x_i, x_j <- (x_i + x_j) / 2

    so a gradient is taken at the model that was there before the averages that came while it was computed. The average
    is made by displacements (``exchange``): they keep the sum over workers, whatever is under way. The average model
    moves by gradients only, those of fast workers more often: with data that differ between workers it goes to the
    optimum of f weighted by their speeds.
    Of the mixing matrix only its edges count; they must go both ways.
    Cost: two vectors of d numbers for each average, one if two requests cross; at the most one average begun a step.
    Differences to the paper: requests are served between computations, not during them by a thread of its own; a
    model's average is not atomic; and there are no active and passive workers, so the graph need not be bipartite.
    Reference: Lian, Zhang, Zhang, Liu, ICML 2018, arXiv 1710.06952; exchange by displacements is our form.
    """

    traits: ClassVar[Traits] = Traits(title="AD-PSGD", needs=("static", "symmetric"), sends="edges")

    def side(self, x: Tensor, near: Neighbourhood) -> Exchange:
        """One worker's side, from the model x (1, d)."""
        return Exchange(x, near, 1, "ad-psgd")
