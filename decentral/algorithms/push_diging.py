"""Push-DIGing: gradient tracking by push-sum, without bias on directed graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


class PushTracker(NamedTuple):
    """z (h, d) = P y - g of the last round, where y follows the mean gradient; w (h, 1): the weight."""

    z: Tensor
    w: Tensor


@dataclass(frozen=True)
class PushDIGing:
    """Push-sum along a tracked gradient.

        y = z + g                                         (z = 0 at first)
        u = P (w x - lr y);    w = P w  (1 at first);    x = u / w
        z = P y - g

    so y = P y_prev + g - g_prev. The columns of P sum to one (weights "push"); the sum of y over the workers is that of
    g in every round.
    Cost: two vectors of d numbers (y, u), and w in the same packet, to each out-neighbour a round.
    Fixed point: every worker at the minimiser of (1/n) sum f_i, no bias, on every strongly connected directed graph.
    Unstable at learning rates that depend on how unequal w is; smaller ones than undirected graphs allow.
    Reference: Nedic, Olshevsky, Shi, SIAM J. Optim. 2017, arXiv 1607.03218.
    """

    # not linear: a quotient
    traits: ClassVar[Traits] = Traits(title="Push-DIGing", needs=("columns",), weights="push", linear=False)

    def rest(self) -> Rest:
        """At the minimiser."""
        return Rest("none")

    def init(self, x: Tensor, comm: Mixer) -> PushTracker:
        """Nothing tracked yet; weight one everywhere."""
        admit(self, x, comm)
        return PushTracker(x.new_zeros(x.shape), x.new_ones((x.shape[0], 1)))

    def step(
        self, x: Tensor, state: PushTracker, g: Tensor, comm: Mixer, lr: float
    ) -> tuple[Tensor, PushTracker]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        y = state.z.add(g)
        u = comm.mix_(x.mul(state.w).sub_(y, alpha=lr))
        w = comm.along.mix(state.w)
        return u.div_(w), PushTracker(comm.mix_(y).sub_(g), w)
