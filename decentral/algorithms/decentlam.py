"""DecentLaM: decentralized momentum without the momentum-incurred bias."""

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


class Displacement(NamedTuple):
    """u (h, d) = lr m = x_prev - x, and the learning rate it was made with (0 before the first round)."""

    u: Tensor
    lr: float


@dataclass(frozen=True)
class DecentLaM:
    """Momentum over what gossip and gradient do together, so that at rest it vanishes.

        z  = x - lr g
        g~ = (x - W z) / lr
        m  = beta m + g~
        x  = x - lr m

    In displacement form, u = lr m, nothing is divided by lr, and a changing lr keeps the method exact:

        u = beta (lr / lr_prev) u + (x - W z)
        x = x - u

    With constant lr: x+ = W (x - lr g) + beta (x - x_prev), local heavy ball around DSGD.
    Cost: one vector (z) of d numbers to each neighbour a round.
    Fixed point: exactly that of DSGD (atc) with the same lr; no factor 1 / (1 - beta).
    Unstable on directed or time-varying mixing (for beta = 0.9 most of them): an eigenvalue h of W (I - lr D) needs
    ((Re h + beta) / (1 + beta))^2 + (Im h / (1 - beta))^2 < 1. On symmetric W negative eigenvalues are harmless.
    Reference: Yuan et al., ICCV 2021, arXiv 2104.11981.
    """

    traits: ClassVar[Traits] = Traits(title="DecentLaM")

    momentum: float = 0.9

    def __post_init__(self) -> None:
        plain_settings(self)
        check_momentum(self.momentum)

    def rest(self) -> Rest:
        """Where DSGD (atc) does; its momentum is of the mixing too."""
        return Rest("atc")

    def init(self, x: Tensor, comm: Mixer) -> Displacement:
        """No displacement yet."""
        admit(self, x, comm)
        return Displacement(x.new_zeros(x.shape), 0.0)

    def step(
        self, x: Tensor, state: Displacement, g: Tensor, comm: Mixer, lr: float
    ) -> tuple[Tensor, Displacement]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        ratio = lr / state.lr if state.lr else 0.0
        z = x.sub(g, alpha=lr)
        u = accumulate(state.u, self.momentum * ratio, x).sub_(comm.mix_(z))
        return x.sub_(u), Displacement(u, lr)
