"""What the momentum methods share: the buffer m, and the range of its coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Momentum(NamedTuple):
    """m (h, d): the heavy-ball sum of gradients, without damping and without the learning rate."""

    m: Tensor


def accumulate(m: Tensor, beta: float, g: Tensor) -> Tensor:
    """m = beta m + g, in place and in one pass over memory."""
    import torch  # here, so that the table of methods can be read without it

    return torch.add(g, m, alpha=beta, out=m)


def check_momentum(momentum: float) -> None:
    """Refuse a coefficient outside [0, 1)."""
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum = {momentum} must be in [0, 1); 0.9 is usual")
