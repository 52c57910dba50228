"""QG-DSGDm: momentum over what the model did, gossip included, in place of the local gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.algorithms.admission import admit
from decentral.algorithms.decentlam import Displacement
from decentral.algorithms.momentum import check_momentum
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


@dataclass(frozen=True)
class QuasiGlobal:
    """Quasi-global momentum, from the displacement of a whole round.

        x+ = W (x - lr (g + beta m))                    (heavy ball)
        x+ = W (x - lr (g + beta (g + beta m)))         (nesterov)
        m  = mu m + (1 - mu) (x - x+) / lr

    Kept as u = lr m, so that nothing is divided by lr: u = mu (lr / lr_prev) u + (1 - mu) (x - x+).
    Cost: one vector of d numbers to each neighbour a round.
    Fixed point: at rest m = 0, so exactly that of DSGD (atc) with the same lr; with nesterov with (1 + beta) lr.
    Unstable on some directed W (a directed ring with beta = 0.9).
    mu: beta where it is not given.
    Reference: Lin et al., ICML 2021, arXiv 2102.04761.
    """

    traits: ClassVar[Traits] = Traits(title="QG-DSGDm")

    momentum: float = 0.9
    mu: float | None = None
    nesterov: bool = False

    def __post_init__(self) -> None:
        plain_settings(self)
        check_momentum(self.momentum)
        if self.mu is not None and not 0 <= self.mu < 1:
            raise ValueError(f"mu = {self.mu} must be in [0, 1); leave it out for that of the momentum")

    def rest(self) -> Rest:
        """Where DSGD (atc) does, with (1 + beta) lr in the form nesterov; its momentum is of the mixing too."""
        return Rest("atc", times=1 + self.momentum if self.nesterov else 1.0)

    def init(self, x: Tensor, comm: Mixer) -> Displacement:
        """No displacement yet."""
        admit(self, x, comm)
        return Displacement(x.new_zeros(x.shape), 0.0)

    def step(
        self, x: Tensor, state: Displacement, g: Tensor, comm: Mixer, lr: float
    ) -> tuple[Tensor, Displacement]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        beta, mu = self.momentum, self.momentum if self.mu is None else self.mu
        u = state.u.mul_(lr / state.lr if state.lr else 0.0)
        if self.nesterov:
            y = x.sub(g, alpha=lr * (1 + beta)).sub_(u, alpha=beta * beta)
        else:
            y = x.sub(g, alpha=lr).sub_(u, alpha=beta)
        after = comm.mix_(y)
        return after, Displacement(u.mul_(mu).add_(x.sub_(after), alpha=1 - mu), lr)
