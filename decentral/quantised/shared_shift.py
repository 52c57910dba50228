"""A layer of batch norms as integers: a scale A and a shift B a channel, and one power of two for the layer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from math import inf
from typing import NamedTuple

from decentral.quantised.staircase import Staircase, staircase

Number = Fraction | float | int


class FixedPoint(NamedTuple):
    """y = clip((A x + B) >> n, lowest, highest): ``scale`` A and ``shift`` B of each channel, ``bits`` n of all.

    The shift to the right is arithmetic: it rounds down, of negative numbers too.
    """

    scale: tuple[int, ...]
    shift: tuple[int, ...]
    bits: int

    def width(self, reach: int) -> int:
        """Bits, with the sign, of the integer that A x + B needs for |x| <= ``reach``."""
        largest = (abs(a) * reach + abs(b) for a, b in zip(self.scale, self.shift, strict=True))
        return max(largest, default=0).bit_length() + 1


def fixed_point(
    alpha: Sequence[Number],
    beta: Sequence[Number],
    reach: int,
    lowest: int | None = None,
    highest: int | None = None,
) -> FixedPoint:
    """Integers with (A x + B) >> n = floor(alpha x + beta + 1/2) for all integers x in [-``reach``, ``reach``].

    Both sides clipped to ``lowest`` and ``highest``, where these are given; ``alpha`` and ``beta`` one a channel, of
    any sign, taken as the exact numbers that they are. n is the least with which all channels have an A and a B, found
    by an exact search; of those A and then B are the ones of least magnitude.

    For each n and A the B form an interval, and the A for which it holds an integer form one too: A (x - z) <=
    (v - w) 2^n - 1 for each corner (x, v) that A x + B must stay below and each (z, w) that it must not. What is
    possible with n is so with n + 1, by doubling; and some n always is, since alpha x + beta + 1/2 may be raised a
    little at all x, and then tilted. Raises ValueError for lengths that differ or numbers that are not finite.
    Source: the idea of arXiv 2008.13128, the search derived anew.
    """
    if len(alpha) != len(beta) or reach < 0:
        raise ValueError(f"{len(alpha)} scales, {len(beta)} shifts and reach = {reach} are no layer")
    if not all(-inf < number < inf for number in (*alpha, *beta)):
        raise ValueError("a scale or a shift is not finite")
    stairs = [
        staircase(Fraction(a), Fraction(b), reach, lowest, highest) for a, b in zip(alpha, beta, strict=True)
    ]
    n = max((least_bits(one) for one in stairs), default=0)
    pairs = [_chosen(one, n) for one in stairs]
    return FixedPoint(tuple(a for a, _ in pairs), tuple(b for _, b in pairs), n)


def least_bits(stairs: Staircase) -> int:
    """The least n with which this channel has an A and a B."""
    return next(n for n in itertools.count() if _scales(stairs, n) is not None)


def _scales(stairs: Staircase, n: int) -> tuple[int, int | None] | None:
    """The least and the greatest A >= 0 for which there is a B; the greatest None where all are; None without any."""
    least, greatest = 0, None
    for x, v in stairs.below:
        for z, w in stairs.above:
            room, run = ((v - w) << n) - 1, x - z
            if run > 0:
                greatest = room // run if greatest is None else min(greatest, room // run)
            elif run < 0:
                least = max(least, -(room // -run))
            elif room < 0:
                return None
    return None if greatest is not None and greatest < least else (least, greatest)


def _chosen(stairs: Staircase, n: int) -> tuple[int, int]:
    found = _scales(stairs, n)
    assert found is not None
    scale = found[0]
    low = max(((w << n) - scale * z for z, w in stairs.above), default=None)
    high = min(((v << n) - 1 - scale * x for x, v in stairs.below), default=None)
    shift = _nearest_to_zero(low, high)
    return (-scale if stairs.turned else scale), shift


def _nearest_to_zero(low: int | None, high: int | None) -> int:
    if low is not None and low > 0:
        return low
    return high if high is not None and high < 0 else 0
