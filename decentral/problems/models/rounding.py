"""Rounding that a gradient passes, and rounding that is exact."""

from __future__ import annotations

import torch
from torch import Tensor


def passed_through(x: Tensor) -> Tensor:
    """round(x), halves to even, with the derivative 1 (straight-through estimator, Bengio et al., arXiv 1308.3432).

    The value is exactly an integer: round(x) - x is exact, since the two are within a factor of two or one is 0.
    """
    return x + (x.round() - x).detach()


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
