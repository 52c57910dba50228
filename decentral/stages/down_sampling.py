"""Filters on what crosses a boundary: averages of neighbours are sent, and repeated on arrival."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import avg_pool2d

from decentral.errors import UserError


def pooled(x: Tensor, s: int) -> Tensor:
    """Means over s x s pixels of maps (B, C, H, W), else over s features. Raises UserError unless s divides them."""
    if s == 1:
        return x
    sides = x.shape[2:] if x.dim() == 4 else x.shape[-1:]
    if any(side % s for side in sides):
        raise UserError(
            f"down_sample = {s} does not divide a boundary of shape {tuple(x.shape[1:])}; "
            f"use a divisor of {math.gcd(*sides)}"
        )
    return avg_pool2d(x, s) if x.dim() == 4 else x.reshape(*x.shape[:-1], -1, s).mean(-1)


def repeated(x: Tensor, s: int) -> Tensor:
    """The shape before :func:`pooled`: each value s x s times on maps, else s times."""
    if s == 1:
        return x
    wide = x.repeat_interleave(s, -1)
    return wide.repeat_interleave(s, -2) if x.dim() == 4 else wide
