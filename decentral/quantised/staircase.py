"""A batch norm's affine map behind an integer sum as what it is after rounding: a staircase, by its corners."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple

Point = tuple[int, int]
_HALF = Fraction(1, 2)


class Staircase(NamedTuple):
    """y(x) = clip(floor(alpha x + beta + 1/2), lowest, highest) for every integer x in [-R, R], by what it asks.

    A map A x + B with A >= 0 has y(x) = clip((A x + B) >> n, lowest, highest) for all these x just where

        A x + B >= v 2^n     at the corners (x, v) of ``above``,
        A x + B <  v 2^n     at the corners (x, v) of ``below``.

    ``turned``: alpha is negative, and this is the staircase of y(-x), which rises.
    """

    above: tuple[Point, ...]
    below: tuple[Point, ...]
    turned: bool


def staircase(
    alpha: Fraction, beta: Fraction, reach: int, lowest: int | None = None, highest: int | None = None
) -> Staircase:
    """That of one channel, in exact arithmetic; ``reach``: R; without ``lowest`` or ``highest`` nothing is cut there.

    Each value v has a first x. Of all those only the corners of two convex hulls can bind, since A x + B - v 2^n is
    linear in (x, v): some log R of them.
    """
    slope = abs(alpha)
    bottom, top = (_clipped(floor(slope * x + beta + _HALF), lowest, highest) for x in (-reach, reach))
    first = {v: ceil((v - _HALF - beta) / slope) for v in range(bottom + 1, top + 1)}
    above = [(x, v) for v, x in first.items()]
    below = [(x - 1, v) for v, x in first.items()]
    if bottom != lowest:  # at x = -R the map must not be below it either
        above.insert(0, (-reach, bottom))
    if top != highest:
        below.append((reach, top + 1))
    return Staircase(_upper_hull(above), _lower_hull(below), alpha < 0)


def rounded(alpha: Fraction, beta: Fraction, x: int, lowest: int | None, highest: int | None) -> int:
    """The float layer at one x, as exact arithmetic has it."""
    return _clipped(floor(alpha * x + beta + _HALF), lowest, highest)


def _clipped(y: int, lowest: int | None, highest: int | None) -> int:
    y = y if lowest is None else max(lowest, y)
    return y if highest is None else min(highest, y)


def _upper_hull(points: Iterable[Point]) -> tuple[Point, ...]:
    """The corners, of points whose coordinates do not fall, that lie above all chords."""
    hull: list[Point] = []
    for x, v in points:
        while len(hull) > 1 and _turn(hull[-2], hull[-1], (x, v)) >= 0:
            hull.pop()
        hull.append((x, v))
    return tuple(hull)


def _lower_hull(points: Iterable[Point]) -> tuple[Point, ...]:
    return tuple((-x, -v) for x, v in _upper_hull((-x, -v) for x, v in reversed(list(points))))[::-1]


def _turn(a: Point, b: Point, c: Point) -> int:
    """Positive where the way from a by b to c turns left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
