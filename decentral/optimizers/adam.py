"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.optimizers.rule import Rule
from topologies.settings import finite_settings, plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout


class Moments(NamedTuple):
    """m, v (h, d): running means of g and g^2; ``steps`` that were made, alike for all workers."""

    m: Tensor
    v: Tensor
    steps: int


@dataclass(frozen=True)
class Adam(Rule):
    """Adam (torch.optim.Adam): weight decay joins the gradient. Reference: arXiv 1412.6980.

        g = g + decay x,    m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2
        d = (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)         (k-th step)

    ``step_`` has the bits of ``torch.optim.Adam`` without ``foreach``.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    decoupled: ClassVar[bool] = False  # weight decay shrinks x by itself

    def __post_init__(self) -> None:
        plain_settings(self)
        check_moments(self.beta1, self.beta2, self.eps)
        finite_settings(self)

    def init(self, x: Tensor, layout: Layout) -> Moments:
        """No moments yet."""
        del layout
        return Moments(x.new_zeros(x.shape), x.new_zeros(x.shape), 0)

    def direction(
        self, x: Tensor, state: Moments, g: Tensor, layout: Layout, lr: float
    ) -> tuple[Tensor, Moments]:
        """See :class:`Rule`."""
        del layout, lr
        state, scale = self._after(x, state, g)
        d = state.m.div(scale).div_(1 - self.beta1**state.steps)
        if self.decoupled and self.weight_decay:
            d.add_(x, alpha=self.weight_decay)
        return d, state

    def step_(self, x: Tensor, state: Moments, g: Tensor, layout: Layout, lr: float) -> Moments:
        """See :class:`Rule`."""
        del layout
        state, scale = self._after(x, state, g)
        if self.decoupled and self.weight_decay:
            x.mul_(1 - lr * self.weight_decay)
        x.addcdiv_(state.m, scale, value=-lr / (1 - self.beta1**state.steps))
        return state

    def _after(self, x: Tensor, state: Moments, g: Tensor) -> tuple[Moments, Tensor]:
        """The moments with g in them, and what m is divided by."""
        if not self.decoupled:
            g = self._joined(g, x)
        k = state.steps + 1
        m = state.m.lerp_(g, 1 - self.beta1)
        v = state.v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        return Moments(m, v, k), v.sqrt().div_((1 - self.beta2**k) ** 0.5).add_(self.eps)


@dataclass(frozen=True)
class AdamW(Adam):
    """AdamW (torch.optim.AdamW): weight decay shrinks the weights directly. Reference: arXiv 1711.05101.

    x = (1 - lr decay) x,    then Adam's step without weight decay;    d = Adam's d + decay x
    """

    decoupled: ClassVar[bool] = True


def check_moments(beta1: float, beta2: float, eps: float, name: str = "eps", usual: float = 1e-8) -> None:
    """Refuse what is no decay rate of moments, and an eps that is not positive."""
    for beta, value in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= value < 1:
            raise ValueError(f"{beta} = {value} must be in [0, 1)")
    if eps <= 0:
        raise ValueError(f"{name} = {eps} must be positive; {usual:g} is usual")
