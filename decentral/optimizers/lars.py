"""LARS, and its sibling LARC: a learning rate for each layer, by the norms of its weights and of its gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from decentral.optimizers.rule import Rule, check_choices
from decentral.optimizers.sgd import Velocity
from decentral.optimizers.spans import Exclude, Spans, acted_on, added_, norms, where_acted
from topologies.settings import finite_settings, plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout


Where = Literal["scaled", "plain"]
Mode = Literal["clip", "scale"]


class _LayerRate(Rule):
    """Momentum of gradients that each layer multiplies by a number of its own."""

    layers: ClassVar[bool] = True
    apart: ClassVar[bool] = True
    trusts: ClassVar[bool] = True

    momentum: float
    trust: float
    exclude: Exclude

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum} must be in [0, 1); 0.9 is usual")
        if not 0 < self.trust < math.inf:
            raise ValueError(f"trust = {self.trust} must be positive and finite; 0.001 is usual")
        finite_settings(self)

    def init(self, x: Tensor, layout: Layout) -> Velocity:
        """No velocity yet."""
        del layout
        return Velocity(x.new_zeros(x.shape))

    def _gathered(self, m: Tensor, x: Tensor, g: Spans, rate: Tensor, layout: Layout) -> Tensor:
        """m, in place: momentum m + rate (g + decay x), without the decay on what is excluded."""
        added_(m.mul_(self.momentum), g, rate, layout)
        if not self.weight_decay:
            return m
        acts = rate.new_tensor(acted_on(layout, self.exclude))
        return added_(m, x, rate * (self.weight_decay * acts), layout)


@dataclass(frozen=True)
class LARS(_LayerRate):
    """Layer-wise adaptive rate scaling: each layer's step is about lr trust |w|. Reference: arXiv 1708.03888.

        lambda = trust |w| / (|g| + decay |w|),    1 where a norm is 0
        m = momentum m + lr lambda (g + decay w),    w = w - m                        (``velocity = "scaled"``)
        m = momentum m + lambda (g + decay w),       w = w - lr m                     (``velocity = "plain"``)

    The two are the same while lr does not change; the paper has lr in the velocity, most libraries have not. w: the
    columns of a layer, g: its gradient without weight decay. ``exclude``: vectors, biases and gains of norms, take
    lambda = 1 and no weight decay. With decay the length of a first step is between lr trust |w| / sqrt(2) and
    lr trust |w| where g and w are orthogonal, as before a batch norm.
    Where a method is handed a direction, a scaled velocity's is m / lr, so a round with lr = 0 moves nothing.
    """

    momentum: float = 0.9
    trust: float = 0.001
    velocity: Where = "scaled"
    exclude: Exclude = "vectors"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, velocity=Where, exclude=Exclude)

    def direction(
        self, x: Tensor, state: Velocity, g: Spans, layout: Layout, lr: float
    ) -> tuple[Tensor, Velocity]:
        """See :class:`Rule`."""
        m = self._after(x, state, g, layout, lr)
        if self.velocity == "plain":
            return m, Velocity(m)
        return (m.div(lr) if lr else m.new_zeros(m.shape)), Velocity(m)

    def step_(self, x: Tensor, state: Velocity, g: Spans, layout: Layout, lr: float) -> Velocity:
        """See :class:`Rule`."""
        m = self._after(x, state, g, layout, lr)
        x.sub_(m, alpha=1.0 if self.velocity == "scaled" else lr)
        return Velocity(m)

    def trust_ratios(self, x: Tensor, state: Velocity, g: Spans, layout: Layout, lr: float) -> Tensor:
        """lambda; see :class:`Rule`."""
        del state, lr
        both = of_x, of_g = norms(x, layout), norms(g, layout)
        rate = self.trust * of_x / (of_g + self.weight_decay * of_x)
        return where_acted(rate, layout, self.exclude, both)

    def _after(self, x: Tensor, state: Velocity, g: Spans, layout: Layout, lr: float) -> Tensor:
        rate = self.trust_ratios(x, state, g, layout, lr)
        if self.velocity == "scaled":
            rate = rate * lr
        return self._gathered(state.m, x, g, rate, layout)


@dataclass(frozen=True)
class LARC(_LayerRate):
    """Layer-wise adaptive rate control: LARS's rate as a bound on lr ("clip") or a factor on it ("scale").

        rate = trust |w| / |g|,    a = min(rate / lr, 1)  or  rate;    a = 1 where a norm is 0
        m = momentum m + a (g + decay w),    w = w - lr m

    Reference: NVIDIA's OpenSeq2Seq and caffe. ``exclude``: vectors take a = 1 and no weight decay.
    """

    momentum: float = 0.9
    trust: float = 0.002
    mode: Mode = "clip"
    exclude: Exclude = "vectors"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, mode=Mode, exclude=Exclude)

    def direction(
        self, x: Tensor, state: Velocity, g: Spans, layout: Layout, lr: float
    ) -> tuple[Tensor, Velocity]:
        """See :class:`Rule`."""
        m = self._gathered(state.m, x, g, self.trust_ratios(x, state, g, layout, lr), layout)
        return m, Velocity(m)

    def trust_ratios(self, x: Tensor, state: Velocity, g: Spans, layout: Layout, lr: float) -> Tensor:
        """a; see :class:`Rule`."""
        del state
        both = of_x, of_g = norms(x, layout), norms(g, layout)
        rate = self.trust * of_x / of_g
        if self.mode == "clip":
            rate = (rate / lr).clamp_(max=1.0) if lr else rate.new_ones(rate.shape)
        return where_acted(rate, layout, self.exclude, both)
