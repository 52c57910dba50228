"""DmSGD: decentralized momentum SGD, in the four forms that papers call by this name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from decentral.algorithms.admission import admit
from decentral.algorithms.momentum import Momentum, accumulate, check_momentum
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer

VARIANTS = ("atc", "awc", "nesterov", "doubly-averaged")


@dataclass(frozen=True)
class DmSGD:
    """Local heavy-ball momentum and an average over the neighbours.

        m = beta m + g
        x = W (x - lr m)                            (variant "atc")
        x = W x - lr m                              (variant "awc": x may travel during the gradient)
        x = W (x - lr (g + beta m))                 (variant "nesterov")
        x = W (x - lr m);  m = W m                  (variant "doubly-averaged", DA-DmSGD)

    Cost: one vector of d numbers to each neighbour a round; two for doubly-averaged.
    Fixed point on quadratics: at rest m = g / (1 - beta), so atc and nesterov stop exactly where DSGD with the
    learning rate lr / (1 - beta) stops: the distance to the optimum grows by up to 1 / (1 - beta). awc likewise
    from DSGD-awc. Doubly averaged: (I - W + lr W K D) X = lr W K D c with K = (I - beta W)^-1.
    Unstable (atc, A_i = a I) unless lr a < (1 + lambda)(1 + beta) / lambda for every eigenvalue lambda > 0 and
    lr a < (1 - lambda)(1 - beta) / |lambda| for every lambda < 0.
    Reference for doubly-averaged: Yu, Jin, Yang 2019.
    """

    traits: ClassVar[Traits] = Traits(title="DmSGD")

    momentum: float = 0.9
    variant: Literal["atc", "awc", "nesterov", "doubly-averaged"] = "atc"

    def __post_init__(self) -> None:
        plain_settings(self)
        check_momentum(self.momentum)
        if self.variant not in VARIANTS:
            raise ValueError(f"variant = {shown(self.variant)} must be one of {', '.join(VARIANTS)}")

    def rest(self) -> Rest | None:
        """Where DSGD does with lr / (1 - beta), in three of the forms."""
        if self.variant == "doubly-averaged":
            return Rest("atc", remixed=self.momentum)
        return Rest("awc" if self.variant == "awc" else "atc", over=1 - self.momentum, changing=True)

    def init(self, x: Tensor, comm: Mixer) -> Momentum:
        """Zero momentum."""
        admit(self, x, comm)
        return Momentum(x.new_zeros(x.shape))

    def step(self, x: Tensor, state: Momentum, g: Tensor, comm: Mixer, lr: float) -> tuple[Tensor, Momentum]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        beta = self.momentum
        m = accumulate(state.m, beta, g)
        if self.variant == "awc":
            return comm.mix_(x).sub_(m, alpha=lr), Momentum(m)
        if self.variant == "nesterov":
            return comm.mix_(x.sub_(g, alpha=lr).sub_(m, alpha=lr * beta)), Momentum(m)
        x = comm.mix_(x.sub_(m, alpha=lr))
        if self.variant == "doubly-averaged":
            m = comm.mix_(m)
        return x, Momentum(m)
