"""DiLoCo: AdamW on each worker alone for long, Nesterov momentum on what they moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.descent import descend
from decentral.algorithms.local_sgd import check_every, is_due
from decentral.algorithms.momentum import check_momentum
from decentral.algorithms.traits import Traits
from topologies.settings import finite_settings, plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


class Slow(NamedTuple):
    """x at the last outer step, u (h, d) the outer momentum."""

    x: Tensor
    u: Tensor


class InnerOuter(NamedTuple):
    """AdamW's m, v (h, d) and ``steps``; x at the last outer step, u (h, d) the outer momentum."""

    m: Tensor
    v: Tensor
    x: Tensor
    u: Tensor
    steps: int


@dataclass(frozen=True)
class OuterNesterov:
    """The outer loop of :class:`DiLoCo` by itself: SGD's inner steps, or those that who calls it makes (g = None)."""

    traits: ClassVar[Traits] = Traits(title="DiLoCo", linear=False)

    every: int
    momentum: float
    outer_lr: float

    def init(self, x: Tensor, comm: Mixer) -> Slow:
        """No momentum yet."""
        admit(self, x, comm)
        return Slow(x.clone(), x.new_zeros(x.shape))

    def step(self, x: Tensor, state: Slow, g: Tensor | None, comm: Mixer, lr: float) -> tuple[Tensor, Slow]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        x = descend(x, g, lr)
        if not is_due(self.every, comm):
            return x, state
        delta = state.x.sub(comm.mean(x))
        u = state.u.mul_(self.momentum).add_(delta)
        slow = state.x.sub_(delta, alpha=self.outer_lr).sub_(u, alpha=self.outer_lr * self.momentum)
        return x.copy_(slow), Slow(slow, u)


@dataclass(frozen=True)
class DiLoCo:
    """Inner steps of AdamW with lr, an outer step of SGD with Nesterov momentum on the mean displacement.

        m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2
        x = (1 - lr decay) x - lr (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)         (k-th step)
        after every ``every``-th round    delta = xs - mean(x),    u = momentum u + delta
        xs = xs - outer_lr (delta + momentum u),    x = xs

    AdamW's state stays with its worker. The graph plays no part. Another rule under ``[optimizer]``, or another torch
    optimizer in a script, takes AdamW's place (:meth:`outer`).
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
        finite_settings(self)

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
        x, slow = self._outer.step(x, Slow(state.x, state.u), None, comm, lr)
        return x, InnerOuter(m, v, *slow, k)

    def outer(self) -> OuterNesterov:
        """What is left without AdamW. Raises ValueError for settings of AdamW's that would be passed over."""
        for name in ("beta1", "beta2", "eps", "decay"):
            if (value := getattr(self, name)) != type(self).__dataclass_fields__[name].default:
                raise ValueError(
                    f"{name} = {value} is AdamW's, in whose place there is another optimizer; remove it"
                )
        return self._outer

    @property
    def _outer(self) -> OuterNesterov:
        return OuterNesterov(self.every, self.momentum, self.outer_lr)
