"""Stochastic gradient descent, with or without momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from decentral.optimizers.rule import Rule
from topologies.settings import plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout


class Velocity(NamedTuple):
    """m (h, d): the heavy-ball sum of gradients."""

    m: Tensor


@dataclass(frozen=True)
class SGD(Rule):
    """Stochastic gradient descent: m = momentum m + g, w = w - lr m (torch.optim.SGD).

        g = g + decay x,    m = momentum m + g
        d = m,    or with nesterov  d = g + momentum m

    The bits of ``torch.optim.SGD`` without dampening.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum} must be in [0, 1); 0.9 is usual")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs momentum > 0; 0.9 is usual")

    @property
    def is_plain(self) -> bool:
        """See :class:`Rule`."""
        return not self.momentum

    def init(self, x: Tensor, layout: Layout) -> tuple[()] | Velocity:
        """No velocity yet."""
        del layout
        return Velocity(x.new_zeros(x.shape)) if self.momentum else ()

    def direction(
        self, x: Tensor, state: tuple[()] | Velocity, g: Tensor, layout: Layout, lr: float
    ) -> tuple[Tensor, tuple[()] | Velocity]:
        """See :class:`Rule`."""
        del layout, lr
        g = self._joined(g, x)
        if not isinstance(state, Velocity):
            return g, state
        m = state.m.mul_(self.momentum).add_(
            g
        )  # not in one pass, which would round once less than torch does
        return (g.add(m, alpha=self.momentum) if self.nesterov else m), Velocity(m)
