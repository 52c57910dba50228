"""LAMB, Adam with a length for each layer, and LAMBC, which bounds its trust ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.optimizers.adam import Moments, check_moments
from decentral.optimizers.quotient import add_quotient_
from decentral.optimizers.rule import Rule, check_choices
from decentral.optimizers.spans import Exclude, Spans, added_, decay_of, norms, scaled_, where_acted
from topologies.settings import finite_settings, plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout


@dataclass(frozen=True)
class LAMB(Rule):
    """LAMB: each layer's step has the length lr |w|, in the direction of Adam's. Reference: arXiv 1904.00962.

        m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2
        r = (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)         (k-th step)
        u = r + decay w,    ratio = |w| / |u|, 1 where a norm is 0
        w = w - lr ratio u

    ``exclude``: vectors, biases and gains of norms, take the ratio 1 and no weight decay. Gradients are not cut:
    ``train.clip_norm`` does that.
    """

    layers: ClassVar[bool] = True
    apart: ClassVar[bool] = True
    trusts: ClassVar[bool] = True

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    exclude: Exclude = "vectors"

    def __post_init__(self) -> None:
        plain_settings(self)
        check_choices(self, exclude=Exclude)
        check_moments(self.beta1, self.beta2, self.eps, usual=1e-6)
        finite_settings(self)

    def init(self, x: Tensor, layout: Layout) -> Moments:
        """No moments yet."""
        del layout
        return Moments(x.new_zeros(x.shape), x.new_zeros(x.shape), 0)

    def direction(
        self, x: Tensor, state: Moments, g: Spans, layout: Layout, lr: float
    ) -> tuple[Tensor, Moments]:
        """See :class:`Rule`."""
        del lr
        u, ratio, state = self._after(x, state, g, layout)
        return scaled_(u, ratio, layout), state

    def step_(self, x: Tensor, state: Moments, g: Spans, layout: Layout, lr: float) -> Moments:
        """See :class:`Rule`."""
        u, ratio, state = self._after(x, state, g, layout)
        added_(x, u, ratio * -lr, layout)
        return state

    def _after(self, x: Tensor, state: Moments, g: Spans, layout: Layout) -> tuple[Tensor, Tensor, Moments]:
        """(u, what it is to be multiplied by, the moments with g in them)."""
        u = decay_of(x, self.weight_decay, layout, self.exclude)
        state = add_quotient_(u, state, g, layout, (self.beta1, self.beta2), self.eps)
        both = of_x, of_u = norms(x, layout), norms(u, layout)
        return u, where_acted(self.bounded(of_x / of_u), layout, self.exclude, both), state

    def trust_ratios(self, x: Tensor, state: Moments, g: Tensor, layout: Layout, lr: float) -> Tensor:
        """|w| / |u|; see :class:`Rule`."""
        del lr
        return self._after(x, state._replace(m=state.m.clone(), v=state.v.clone()), g, layout)[1]

    def bounded(self, ratio: Tensor) -> Tensor:
        """The trust ratio (h, L) that is used."""
        return ratio


@dataclass(frozen=True)
class LAMBC(LAMB):
    """LAMB whose trust ratio is cut to [lower, upper]. Reference: arXiv 2011.13584.

    ratio = min(max(|w| / |u|, lower), upper)
    """

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.lower <= self.upper < math.inf or not self.upper:
            raise ValueError(
                f"lower = {self.lower} and upper = {self.upper} must be finite and 0 <= lower <= upper > 0; 0 and 1 "
                "are usual"
            )

    def bounded(self, ratio: Tensor) -> Tensor:
        """See :class:`LAMB`."""
        return ratio.clamp(self.lower, self.upper)
