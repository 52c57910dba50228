"""DiLoCo: AdamW on each worker alone for long, Nesterov momentum on what they moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.local_sgd import check_every, is_due
from decentral.algorithms.momentum import check_momentum
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


class InnerOuter(NamedTuple):
    """AdamW's m, v (h, d) and ``steps``; x at the last outer step, u (h, d) the outer momentum."""

    m: Tensor
    v: Tensor
    x: Tensor
    u: Tensor
    steps: int


@dataclass(frozen=True)
class DiLoCo:
    """Inner steps of AdamW with lr, an outer step of SGD with Nesterov momentum on the mean displacement.

        m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2
        x = (1 - lr decay) x - lr (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)         (k-th step)
        after every ``every``-th round    delta = xs - mean(x),    u = momentum u + delta
        xs = xs - outer_lr (delta + momentum u),    x = xs

    AdamW's state stays with its worker. The graph plays no part.
    Cost: one all-reduce of d numbers in ``every`` rounds.
    Fixed point: none in closed form. Unstable for outer_lr too large; no bound is known to us.
    Reference: Douillard et al. 2023, arXiv 2311.08105.
    """

    traits: ClassVar[Traits] = Traits(title="DiLoCo", linear=False, optimizer="AdamW")

    every: int = 500
    momentum: float = 0.9
    outer_lr: float = 0.7
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: float = 0.0

    def __post_init__(self) -> None:
        plain_settings(self)
        check_every(self.every)
        check_momentum(self.momentum)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be in [0, 1)")
        for name in ("outer_lr", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")
        if self.decay < 0:
            raise ValueError(f"decay = {self.decay} must not be negative; 0.0 is without")

    def init(self, x: Tensor, comm: Mixer) -> InnerOuter:
        """No moments yet."""
        admit(self, x, comm)
        m, v, u = (x.new_zeros(x.shape) for _ in range(3))
        return InnerOuter(m, v, x.clone(), u, 0)

    def step(
        self, x: Tensor, state: InnerOuter, g: Tensor, comm: Mixer, lr: float
    ) -> tuple[Tensor, InnerOuter]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        k = state.steps + 1
        m = state.m.mul_(self.beta1).add_(g, alpha=1 - self.beta1)
        v = state.v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        scale = v.sqrt().div_((1 - self.beta2**k) ** 0.5).add_(self.eps)
        x = x.mul_(1 - lr * self.decay).addcdiv_(m, scale, value=-lr / (1 - self.beta1**k))
        if not is_due(self.every, comm):
            return x, state._replace(steps=k)
        delta = state.x.sub(comm.mean(x))
        u = state.u.mul_(self.momentum).add_(delta)
        slow = state.x.sub_(delta, alpha=self.outer_lr).sub_(u, alpha=self.outer_lr * self.momentum)
        return x.copy_(slow), InnerOuter(m, v, slow, u, k)
