"""The step x - lr g of methods that make no other use of the gradient, and which somebody else may make for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def descend(x: Tensor, g: Tensor | None, lr: float) -> Tensor:
    """x - lr g, giving up x; with g = None x itself: who called the method makes this step on x, before or after it.

    So a torch optimizer can step in place, and the method mixes what it left
    (:mod:`decentral.rounds.trials.gradient_step`).
    """
    return x if g is None else x.sub_(g, alpha=lr)
