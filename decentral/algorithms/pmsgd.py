"""PmSGD: parallel momentum SGD, the all-reduce baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.algorithms.admission import admit
from decentral.algorithms.descent import descend
from decentral.algorithms.momentum import Momentum, accumulate, check_momentum
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


@dataclass(frozen=True)
class PmSGD:
    """Parallel SGD with heavy-ball or Nesterov momentum over exactly averaged gradients.

        m = beta m + mean(g)
        x = x - lr m                        (heavy ball; beta = 0 is plain parallel SGD)
        x = x - lr (mean(g) + beta m)       (nesterov)

    No damping: with n = 1 this is ``torch.optim.SGD(momentum=beta, nesterov=nesterov)``.
    Cost: one all-reduce of d numbers a round. Fixed point: the minimiser of (1/n) sum f_i, no bias.
    Unstable at lr L >= 2 (1 + beta) on quadratics (heavy ball).
    """

    traits: ClassVar[Traits] = Traits(title="PmSGD", sends="gradients")

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        plain_settings(self)
        check_momentum(self.momentum)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs momentum > 0; set momentum, or nesterov = false")

    def rest(self) -> Rest:
        """At the minimiser."""
        return Rest("none")

    def init(self, x: Tensor, comm: Mixer) -> Momentum:
        """Zero momentum."""
        admit(self, x, comm)
        return Momentum(x.new_zeros(x.shape))

    def step(self, x: Tensor, state: Momentum, g: Tensor, comm: Mixer, lr: float) -> tuple[Tensor, Momentum]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        if not self.momentum:
            return descend(x, g if g is None else comm.mean(g), lr), state
        g_mean = comm.mean(g)
        m = accumulate(state.m, self.momentum, g_mean)
        if self.nesterov:
            return x.sub_(g_mean, alpha=lr).sub_(m, alpha=lr * self.momentum), Momentum(m)
        return x.sub_(m, alpha=lr), Momentum(m)
