"""Muon: momentum whose matrices are made orthogonal; what is no matrix makes AdamW's step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from decentral.optimizers.adam import AdamW, Moments, check_moments
from decentral.optimizers.rule import Rule, check_choices
from topologies.settings import finite_settings, plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout, Span

Adjust = Literal["original", "match_rms_adamw"]


@dataclass(frozen=True)
class Muon(Rule):
    """Muon (torch.optim.Muon): each matrix moves by the orthogonal factor of its momentum, nearly. Reference: Keller
    Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024); ``match_rms_adamw``: arXiv 2502.16982.

        m = momentum m + (1 - momentum) g,    u = (1 - momentum) g + momentum m  with nesterov, or m
        X = u / |u|, then ns_steps times  X = a X + (b A + c A^2) X,  A = X X'        ((a, b, c) = ns_coefficients)
        w = (1 - lr decay) w - lr r X,    r = sqrt(max(1, rows / columns)),  or 0.2 sqrt(max(rows, columns))

    The iteration is in bfloat16, whatever w is. Two dimensions: the bits of torch's. A convolution is the matrix
    (out, rest). Biases, gains and other vectors make the step of AdamW(beta1, beta2, vectors_eps) with
    ``vectors_lr`` lr.
    State: 2 d numbers. Cost: 2 ns_steps products of matrices of gradients' shape and more; each worker by itself.
    """

    layers: ClassVar[bool] = True

    momentum: float = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315)
    ns_steps: int = 5
    eps: float = 1e-7
    adjust_lr_fn: Adjust = "original"
    vectors_lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    vectors_eps: float = 1e-8

    def __post_init__(self) -> None:
        plain_settings(self)
        check_choices(self, adjust_lr_fn=Adjust)
        check_moments(self.beta1, self.beta2, self.vectors_eps, "vectors_eps")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum} must be in [0, 1); 0.95 is usual")
        if not 1 <= self.ns_steps < 100:
            raise ValueError(f"ns_steps = {self.ns_steps} must be from 1 to 99; 5 is usual")
        if self.eps <= 0:
            raise ValueError(f"eps = {self.eps} must be positive; 1e-7 is usual")
        if self.vectors_lr < 0:
            raise ValueError(f"vectors_lr = {self.vectors_lr} must be at least 0; 1 is usual")
        object.__setattr__(self, "ns_coefficients", tuple(map(float, self.ns_coefficients)))
        if len(self.ns_coefficients) != 3 or not all(map(math.isfinite, self.ns_coefficients)):
            raise ValueError(f"ns_coefficients = {self.ns_coefficients} must be three finite numbers")
        finite_settings(self)

    def init(self, x: Tensor, layout: Layout) -> Moments:
        """No moments yet: m of all, v of what is no matrix and 0 elsewhere."""
        del layout
        return Moments(x.new_zeros(x.shape), x.new_zeros(x.shape), 0)

    def direction(
        self, x: Tensor, state: Moments, g: Tensor, layout: Layout, lr: float
    ) -> tuple[Tensor, Moments]:
        """See :class:`Rule`."""
        d = x.mul(self.weight_decay)
        for span, turned in self._turned(state.m, g, layout):
            for of_one, update in zip(d[:, span.columns], turned, strict=True):
                of_one.view(update.shape).add_(update, alpha=self._factor(update))
        for span, adamw, moments in self._vectors(state, layout):
            here = span.columns
            step, _ = adamw.direction(x[:, here], moments, g[:, here], layout, lr)
            d[:, here] = step.mul_(self.vectors_lr)
        return d, state._replace(steps=state.steps + 1)

    def step_(self, x: Tensor, state: Moments, g: Tensor, layout: Layout, lr: float) -> Moments:
        """See :class:`Rule`."""
        for span, turned in self._turned(state.m, g, layout):
            for of_one, update in zip(x[:, span.columns], turned, strict=True):
                of_one.mul_(1 - lr * self.weight_decay)
                of_one.view(update.shape).add_(update, alpha=-(lr * self._factor(update)))
        for span, adamw, moments in self._vectors(state, layout):
            here = span.columns
            adamw.step_(x[:, here], moments, g[:, here], layout, lr * self.vectors_lr)
        return state._replace(steps=state.steps + 1)

    def _turned(self, m: Tensor, g: Tensor, layout: Layout) -> Iterator[tuple[Span, Iterator[Tensor]]]:
        """Each matrix, and the workers' updates of it (rows, columns), in bfloat16, one by one."""
        for span in _spans(layout, matrices=True):
            both = zip(m[:, span.columns], g[:, span.columns], strict=True)
            yield span, (self._turn(mine.view(shape), its.view(shape)) for mine, its in both
                         for shape in [(span.shape[0], -1)])  # fmt: skip

    def _turn(self, m: Tensor, g: Tensor) -> Tensor:
        m.lerp_(g, 1 - self.momentum)
        return orthogonal(
            g.lerp(m, self.momentum) if self.nesterov else m, self.ns_coefficients, self.ns_steps, self.eps
        )

    def _factor(self, update: Tensor) -> float:
        rows, columns = update.shape
        if self.adjust_lr_fn == "original":
            return math.sqrt(max(1, rows / columns))
        return 0.2 * math.sqrt(max(rows, columns))

    def _vectors(self, state: Moments, layout: Layout) -> Iterator[tuple[Span, AdamW, Moments]]:
        """What is no matrix, the rule for it, and its moments, which the rule changes in place."""
        adamw = AdamW(self.beta1, self.beta2, self.vectors_eps).decayed(self.weight_decay)
        for span in _spans(layout, matrices=False):
            m, v = state.m[:, span.columns], state.v[:, span.columns]
            yield span, adamw, Moments(m, v, state.steps)


def orthogonal(m: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """About U V' where m (rows, columns) is U S V': singular values between 0.7 and 1.2, in bfloat16.

    The quintic of :class:`Muon`, on the shorter side.
    """
    import torch

    a, b, c = coefficients
    is_tall = m.shape[0] > m.shape[1]
    x = m.bfloat16()
    x = x.T if is_tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def _spans(layout: Layout, matrices: bool) -> Iterator[Span]:
    return (span for span, is_one in zip(layout.spans, layout.matrices, strict=True) if is_one is matrices)
