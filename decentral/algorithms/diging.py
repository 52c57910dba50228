"""DIGing: gradient tracking that combines while it adapts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.algorithms.gradient_tracking import GradientTracking
from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


@dataclass(frozen=True)
class DIGing(GradientTracking):
    """Adapt while combine, along a tracked gradient.

        y = z + g                               (z = 0 at first)
        m = beta m + y
        x = W x - lr m
        z = W y - g

    Cost: two vectors of d numbers (y, x) to each neighbour a round.
    Fixed point: every worker at the minimiser of (1/n) sum f_i, no bias.
    Unstable (A_i = a I, symmetric W, beta = 0) unless lr a < (1 + lambda)^2 / 2 for every eigenvalue lambda of W.
    Reference: Nedic, Olshevsky, Shi, SIAM J. Optim. 2017, arXiv 1607.03218.
    """

    traits: ClassVar[Traits] = Traits(title="DIGing")

    def descend(self, x: Tensor, m: Tensor, comm: Mixer, lr: float) -> Tensor:
        """W x - lr m."""
        return comm.mix_(x).sub_(m, alpha=lr)
