"""Workers each by itself: what stands in a round for a method where nobody talks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm import Mixer
    from decentral.comm.layout import Layout
    from decentral.optimizers.rule import Rule


@dataclass(frozen=True)
class Alone:
    """x_i <- the rule's own step of x_i with g_i: nothing is sent, and nothing billed.

    The rule has its weight decay (:meth:`Rule.decayed`). ``layout``: of a model's columns.
    """

    rule: Rule
    layout: Layout

    @property
    def traits(self) -> Traits:
        """A rule that looks at layers is given whole vectors."""
        return Traits(title="alone", needs=(), whole=self.rule.layers)

    def init(self, x: Tensor, comm: Mixer) -> Any:
        """The rule's state before its first step from x (h, d)."""
        del comm
        return self.rule.init(x, self.layout)

    def step(self, x: Tensor, state: Any, g: Tensor, comm: Mixer, lr: float) -> tuple[Tensor, Any]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        del comm
        return x, self.rule.step_(x, state, g, self.layout, lr)
