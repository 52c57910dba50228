"""EXTRA: decentralized gradient descent, exact by a correction that remembers all disagreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.algorithms.admission import admit
from decentral.algorithms.d2 import Correction
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


@dataclass(frozen=True)
class EXTRA:
    """Gossip while the gradient is applied, and a correction that sums up what gossip would still move.

        x+ = W x - lr g + c
        c  = c + (W x - x) / 2                  (0 at first; times lr / lr_prev where lr changes)

    With constant lr: x'' = (I + W) x' - (I + W) / 2 x - lr (g' - g), begun with x' = W x - lr g.
    Cost: one vector of d numbers to each neighbour a round.
    Fixed point: every worker at the minimiser of (1/n) sum f_i, no bias.
    Unstable on directed and on some changing W.
    Reference: Shi, Ling, Wu, Yin, SIAM J. Optim. 2015, arXiv 1404.6264.
    """

    traits: ClassVar[Traits] = Traits(title="EXTRA")

    def rest(self) -> Rest:
        """At the minimiser."""
        return Rest("none")

    def init(self, x: Tensor, comm: Mixer) -> Correction:
        """No correction yet."""
        admit(self, x, comm)
        return Correction(x.new_zeros(x.shape), 0.0)

    def step(
        self, x: Tensor, state: Correction, g: Tensor, comm: Mixer, lr: float
    ) -> tuple[Tensor, Correction]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        c = state.c.mul_(lr / state.lr if state.lr else 0.0)
        mixed = comm.mix(x)
        moved = mixed.sub(x)
        return mixed.sub_(g, alpha=lr).add_(c), Correction(c.add_(moved, alpha=0.5), lr)
