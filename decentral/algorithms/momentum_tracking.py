"""Momentum tracking: each worker follows the mean momentum."""

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


class TrackedMomentum(NamedTuple):
    """m (h, d): the worker's own heavy-ball sum; z (h, d) = W v - m: what it lacks of the mean of all."""

    m: Tensor
    z: Tensor


@dataclass(frozen=True)
class MomentumTracking:
    """Heavy-ball momentum of the own gradient; what is tracked, and descended along, is its mean.

        m = beta m + g
        v = m + z                               (z = 0 at first: no global average to begin with)
        x = W x - lr v
        z = W v - m

    With c = -z that is the published x = W x - lr (m - c), c = W (c - m) + m.
    Cost: two vectors of d numbers (v, x) to each neighbour a round.
    Fixed point: every worker at the minimiser of (1/n) sum f_i, no bias.
    Unstable (A_i = a I, symmetric W, beta = 0, which is DIGing) unless lr a < (1 + lambda)^2 / 2 for every lambda of W.
    Reference: Takezawa et al., TMLR 2023, arXiv 2209.15505.
    """

    traits: ClassVar[Traits] = Traits(title="momentum tracking")

    momentum: float = 0.9

    def __post_init__(self) -> None:
        plain_settings(self)
        check_momentum(self.momentum)

    def rest(self) -> Rest:
        """At the minimiser."""
        return Rest("none")

    def init(self, x: Tensor, comm: Mixer) -> TrackedMomentum:
        """Zero momentum."""
        admit(self, x, comm)
        return TrackedMomentum(x.new_zeros(x.shape), x.new_zeros(x.shape))

    def step(
        self, x: Tensor, state: TrackedMomentum, g: Tensor, comm: Mixer, lr: float
    ) -> tuple[Tensor, TrackedMomentum]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        m = accumulate(state.m, self.momentum, g)
        v = m.add(state.z)
        x = comm.mix_(x).sub_(v, alpha=lr)
        return x, TrackedMomentum(m, comm.mix_(v).sub_(m))
