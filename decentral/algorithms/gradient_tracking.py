"""Gradient tracking: each worker follows the mean gradient, and descends along that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.momentum import accumulate, check_momentum
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


class Tracker(NamedTuple):
    """z (h, d) = W y - g of the last round: y, which follows the mean gradient, is z + g."""

    z: Tensor


class MomentumTracker(NamedTuple):
    """The same, and m (h, d), the heavy-ball sum of y."""

    z: Tensor
    m: Tensor


@dataclass(frozen=True)
class GradientTracking:
    """Adapt, then combine, along a tracked gradient; with momentum it is DSGT-HB.

        y = z + g                               (z = 0 at first)
        m = beta m + y
        x = W (x - lr m)
        z = W y - g

    so y = W y_prev + g - g_prev, with the W that mixed x_prev. The mean of z over the workers is zero: that of y is
    that of g in every round.
    Cost: two vectors of d numbers (y, x) to each neighbour a round.
    Fixed point: every worker at the minimiser of (1/n) sum f_i, no bias, on directed W too if it is doubly stochastic.
    Unstable (A_i = a I, symmetric W, beta = 0) unless lr a < 2, and < (1 - lambda^2) / |lambda| for every lambda < 0.
    Reference: Lorenzo, Scutari 2016, arXiv 1602.00591; Pu, Nedic 2018, arXiv 1805.11454 (stochastic).
    """

    traits: ClassVar[Traits] = Traits(title="gradient tracking")

    momentum: float = 0.0

    def __post_init__(self) -> None:
        plain_settings(self)
        check_momentum(self.momentum)

    def rest(self) -> Rest:
        """At the minimiser."""
        return Rest("none")

    def init(self, x: Tensor, comm: Mixer) -> Tracker | MomentumTracker:
        """Nothing tracked yet."""
        admit(self, x, comm)
        z = x.new_zeros(x.shape)
        return MomentumTracker(z, x.new_zeros(x.shape)) if self.momentum else Tracker(z)

    def step(
        self, x: Tensor, state: Tracker | MomentumTracker, g: Tensor, comm: Mixer, lr: float
    ) -> tuple[Tensor, Tracker | MomentumTracker]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        y = state.z.add(g)
        m = y if isinstance(state, Tracker) else accumulate(state.m, self.momentum, y)
        x = self.descend(x, m, comm, lr)
        z = comm.mix_(y).sub_(g)
        return x, Tracker(z) if isinstance(state, Tracker) else MomentumTracker(z, m)

    def descend(self, x: Tensor, m: Tensor, comm: Mixer, lr: float) -> Tensor:
        """W (x - lr m)."""
        return comm.mix_(x.sub(m, alpha=lr))
