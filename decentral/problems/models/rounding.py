"""Rounding that a gradient passes, and rounding that is exact."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def passed_through(x: Tensor, unit: int = 1) -> Tensor:
    """round(unit x) / unit, halves to even, with the derivative 1: straight-through estimator (arXiv 1308.3432).

    ``unit``: a power of two, so that the values are exactly integers over it.
    """
    rounded: Tensor = _PassedThrough.apply(x, unit)  # type: ignore[no-untyped-call]
    return rounded


class _PassedThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, unit: int) -> Tensor:
        return (x * unit).round_().mul_(1 / unit)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def floor_of_sum(p: Tensor, b: Tensor) -> Tensor:
    """floor(p + b + 1/2) as exact arithmetic has it, of float64 numbers far below 2^52; integers in float64.

    The float sum s = p + b is wrong by an e that is known exactly (Knuth's two-sum), and then with r = s - floor(s) the
    answer is floor(s) + 1 where r + e >= 1/2, else floor(s).
    """
    s = p + b
    of_b = s - p
    e = (p - (s - of_b)) + (b - of_b)
    down = s.floor()
    return down + ((s - down) - 0.5 >= -e).to(torch.float64)
