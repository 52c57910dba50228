"""D2: DSGD with the correction that makes heterogeneous data harmless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.descent import descend
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


class Correction(NamedTuple):
    """c (h, d), and the learning rate it was made with (0 before the first round)."""

    c: Tensor
    lr: float


@dataclass(frozen=True)
class D2:
    """What gossip moved in the last round is added once more, so that at rest it cancels the local gradient.

        psi = x - lr g
        x+  = W (psi + c)
        c   = x+ - psi                          (0 at first; times lr / lr_prev where lr changes)

    With constant lr: x'' = W (2 x' - x - lr (g' - g)).
    Cost: one vector of d numbers to each neighbour a round.
    Fixed point: every worker at the minimiser of (1/n) sum f_i, no bias.
    Unstable unless every eigenvalue of W is above -1/3 (at small lr modes are roots of z^2 - 2 lambda z + lambda): use
    weights "lazy", or exact diffusion. W must be static and symmetric.
    Reference: Tang et al., ICML 2018, arXiv 1803.07068.
    """

    traits: ClassVar[Traits] = Traits(title="D2", least_eigenvalue=-1 / 3)

    def rest(self) -> Rest:
        """At the minimiser."""
        return Rest("none")

    def init(self, x: Tensor, comm: Mixer) -> Correction:
        """No correction yet."""
        admit(self, x, comm)
        return Correction(x.new_zeros(x.shape), 0.0)

    def step(
        self, x: Tensor, state: Correction, g: Tensor | None, comm: Mixer, lr: float
    ) -> tuple[Tensor, Correction]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        psi = descend(x, g, lr)
        corrected = state.c.mul_(lr / state.lr if state.lr else 0.0).add_(psi)
        after = self.gossip(corrected, comm)
        return after, Correction(corrected.copy_(after).sub_(psi), lr)

    def gossip(self, x: Tensor, comm: Mixer) -> Tensor:
        """W x."""
        return comm.mix(x)
