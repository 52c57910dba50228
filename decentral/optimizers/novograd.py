"""NovoGrad: gradients of layers divided by a running mean of their norms, then momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.optimizers.adam import check_moments
from decentral.optimizers.rule import Rule
from decentral.optimizers.spans import Spans, added_, norms
from topologies.settings import finite_settings, plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout


class LayerMoments(NamedTuple):
    """m (h, d): the sum of gradients; v (h, L): of each layer, the mean of |g|^2; ``steps`` that were made."""

    m: Tensor
    v: Tensor
    steps: int


@dataclass(frozen=True)
class NovoGrad(Rule):
    """NovoGrad: momentum of gradients that each layer divides by a number of its own. Reference: arXiv 1905.11286.

        v = |g|^2 in the first step, then beta2 v + (1 - beta2) |g|^2        (one number a layer)
        m = beta1 m + (g / (sqrt(v) + eps) + decay w)
        w = w - lr m

    ``averaging``: (1 - beta1) before the second term. State: half of Adam's, d + L numbers.
    """

    layers: ClassVar[bool] = True
    apart: ClassVar[bool] = True

    beta1: float = 0.95
    beta2: float = 0.98
    eps: float = 1e-8
    averaging: bool = False

    def __post_init__(self) -> None:
        plain_settings(self)
        check_moments(self.beta1, self.beta2, self.eps)
        finite_settings(self)

    def init(self, x: Tensor, layout: Layout) -> LayerMoments:
        """No moments yet."""
        return LayerMoments(x.new_zeros(x.shape), x.new_zeros((len(x), len(layout.sizes))), 0)

    def direction(
        self, x: Tensor, state: LayerMoments, g: Spans, layout: Layout, lr: float
    ) -> tuple[Tensor, LayerMoments]:
        """See :class:`Rule`."""
        del lr
        squares = norms(g, layout).square()
        v = state.v.mul_(self.beta2).add_(squares, alpha=1 - self.beta2) if state.steps else squares
        share = 1 - self.beta1 if self.averaging else 1.0
        m = added_(state.m.mul_(self.beta1), g, v.sqrt().add_(self.eps).reciprocal_().mul_(share), layout)
        if self.weight_decay:
            m.add_(x, alpha=share * self.weight_decay)
        return m, LayerMoments(m, v, state.steps + 1)
