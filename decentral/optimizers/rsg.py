"""Remote stochastic gradient steps: momentum whose gradient is taken ahead; RSG, and ARSG with AMSGrad's scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from decentral.optimizers.rule import Rule
from topologies.settings import finite_settings, plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout

_BOOST, _SLOWER = 2.0, 0.25


class Observed(NamedTuple):
    """m (h, d): the running mean of gradients; ``steps`` that were made, alike for all workers."""

    m: Tensor
    steps: int


class ObservedMoments(NamedTuple):
    """m, v (h, d): running means of g and g^2; ``most`` (h, d): the largest v of each entry so far; ``steps``."""

    m: Tensor
    v: Tensor
    most: Tensor
    steps: int


@dataclass(frozen=True)
class RSG(Rule):
    """Remote stochastic gradient: x is where gradients are observed, ahead of the iterate. Reference: arXiv 1905.01422.

        g = g + decay x,    m = beta m + (1 - beta) g
        x = x - lr ((1 - mu) m + mu g)

    ``mu``: the observation factor. mu = 0 is heavy ball with the step lr (1 - beta), mu = 1 - beta is Nesterov's
    momentum with the step lr mu, as torch has them. m is a mean and not a sum: lr is some 1 / (1 - beta) times SGD's.
    ``boost_at``: the observation boost, steps after which mu is doubled and lr divided by 4; 0 is never. It is meant
    for when the loss no longer falls, in a run that began with half the mu and a larger lr.
    """

    beta: float = 0.999
    mu: float = 0.1
    boost_at: int = 0

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta = {self.beta} must be in [0, 1); 0.999 is usual")
        if not 0 <= self.mu <= 1:
            raise ValueError(f"mu = {self.mu} must be in [0, 1]; 0.1 is usual")
        if self.boost_at < 0:
            raise ValueError(f"boost_at = {self.boost_at} must not be negative; 0 is never")
        if self.boost_at and _BOOST * self.mu > 1:
            raise ValueError(f"mu = {self.mu} is doubled after boost_at steps; it must be at most 0.5")
        finite_settings(self)

    def init(self, x: Tensor, layout: Layout) -> Any:
        """No gradient yet."""
        del layout
        return Observed(x.new_zeros(x.shape), 0)

    def direction(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> tuple[Tensor, Any]:
        """See :class:`Rule`."""
        del layout, lr
        d, m = self._observed(x, state, g)
        return d, Observed(m, state.steps + 1)

    def _observed(self, x: Tensor, state: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        """(1 - mu) m + mu g, with the boost in it, and m."""
        g = self._joined(g, x)
        m = state.m.lerp_(g, 1 - self.beta)
        if self.boost_at and state.steps >= self.boost_at:
            return m.lerp(g, _BOOST * self.mu).mul_(_SLOWER), m
        return m.lerp(g, self.mu), m


@dataclass(frozen=True)
class ARSG(RSG):
    """RSG with AMSGrad's scales and without bias correction. Reference: arXiv 1905.01422.

        g = g + decay x,    m = beta m + (1 - beta) g
        v = beta2 v + (1 - beta2) g^2,    vhat = max(vhat, v),    vhat = eps at first
        x = x - lr ((1 - mu) m + mu g) / sqrt(vhat)

    eps is a floor below vhat, so that nothing is divided by less than sqrt(eps): 1e-4. The first step of an entry is
    1.009 lr long at the defaults, if its g^2 (1 - beta2) is above eps.
    """

    beta2: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 = {self.beta2} must be in [0, 1); 0.99 is usual")
        if self.eps <= 0:
            raise ValueError(f"eps = {self.eps} must be positive; 1e-8 is usual")

    def init(self, x: Tensor, layout: Layout) -> Any:
        """No moments yet, and eps below."""
        del layout
        return ObservedMoments(x.new_zeros(x.shape), x.new_zeros(x.shape), x.new_full(x.shape, self.eps), 0)

    def direction(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> tuple[Tensor, Any]:
        """See :class:`Rule`."""
        del layout, lr
        joined = self._joined(g, x)
        v = state.v.mul_(self.beta2).addcmul_(joined, joined, value=1 - self.beta2)
        d, m = self._observed(x, state, g)
        most = state.most.clamp_(min=v)
        return d.div_(most.sqrt()), ObservedMoments(m, v, most, state.steps + 1)
