"""Nonlinear conjugate gradients on a few numbers, one evaluation at a time: who asks for it makes the evaluations."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]
Asking = Generator[Point, "tuple[float, Point]", "Line | None"]
"""Yields the point (m,) to be evaluated; is sent f and its gradient (m,) there."""

_RHO, _SIG = 0.01, 0.5  # of Wolfe's and Powell's conditions: enough descent, and a slope so much flatter
_INSIDE, _BEYOND = 0.1, 3.0  # of an interval, what is kept from its ends; and how much further at once
_MOST, _RATIO = 20, 100.0  # evaluations of a line; of the first step of a line to that of the one before


class Line(NamedTuple):
    """Where a search along a line has ended: at z s, with f and g there, after ``used`` evaluations."""

    z: float
    f: float
    g: Point
    used: int
    found: bool


def conjugate_gradients(m: int, most: int) -> Asking:
    """Points (m,) from 0 towards a minimum of f, at most ``most`` of them; the best is for the caller to keep.

        s = -g + beta s,    beta = g'(g - g_before) / |g_before|^2    (Polak and Ribiere); -g where that does not fall
        along s the line search of Rasmussen's ``minimize``, as in torch's old optim.cg: cubic and quadratic
        interpolation, and extrapolation, until f <= f_0 + 0.01 z d_0 and |d| <= 0.5 |d_0| for the slopes d

    It ends where f is not finite at 0, the gradient is zero, or two lines after one another have not been found.
    """
    x = np.zeros(m)
    f, g = yield x
    f, used, failed, s = float(f), 1, False, -g
    slope = float(g @ s)
    step = 1 / (1 - slope) if slope else 0.0
    while used < most and math.isfinite(f) and math.isfinite(slope) and slope < 0:
        line = yield from _along(x, s, f, slope, step, most - used)
        assert line is not None
        used += line.used
        if line.found:
            beta = float(line.g @ line.g - g @ line.g) / float(g @ g)
            x, f, g, before = x + line.z * s, line.f, line.g, slope
            s = beta * s - g
            if not (slope := float(g @ s)) < 0:
                s, slope = -g, -float(g @ g)
            step = line.z * min(_RATIO, before / slope) if slope else 0.0
        elif failed:
            return None
        else:
            s, slope = -g, -float(g @ g)
            step = 1 / (1 - slope)
        failed = not line.found
    return None


def _along(x: Point, s: Point, f1: float, d1: float, z: float, most: int) -> Asking:
    """The search from x along s, where f has the value f1 and the slope d1; z is tried first."""
    f2, d2, g = yield from _at(x, s, z)
    used, f3, d3, z3 = 1, f1, d1, -z
    limit: float | None = None
    most = min(_MOST + 1, most)
    while True:
        while (f2 > f1 + z * _RHO * d1 or d2 > -_SIG * d1) and used < most:
            limit = z
            z2 = _inside(f1, f2, d2, f3, d3, z3)
            z, z3 = z + z2, z3 - z2
            f2, d2, g = yield from _at(x, s, z)
            used += 1
        if f2 > f1 + z * _RHO * d1 or d2 > -_SIG * d1 or not math.isfinite(f2):
            return Line(z, f2, g, used, False)
        if d2 > _SIG * d1:
            return Line(z, f2, g, used, True)
        if used >= most:
            return Line(z, f2, g, used, False)
        z2 = _beyond(z, f2, d2, f3, d3, z3, limit)
        f3, d3, z3 = f2, d2, -z2
        z += z2
        f2, d2, g = yield from _at(x, s, z)
        used += 1


def _at(x: Point, s: Point, z: float) -> Generator[Point, Any, tuple[float, float, Point]]:
    """f, its slope along s, and its gradient at x + z s; infinite where it is not a number."""
    f, g = yield x + z * s
    return (float(f) if math.isfinite(f) else math.inf), float(g @ s), g


def _inside(f1: float, f2: float, d2: float, f3: float, d3: float, z3: float) -> float:
    """From the newest point, how far back: to the minimum of a parabola where f rose, or else of a cubic."""
    try:
        if f2 > f1:
            z2 = z3 - 0.5 * d3 * z3 * z3 / (d3 * z3 + f2 - f3)
        else:
            a, b = _cubic(f2, d2, f3, d3, z3)
            z2 = (math.sqrt(b * b - a * d2 * z3 * z3) - b) / a
    except (ArithmeticError, ValueError):
        z2 = math.nan
    if not math.isfinite(z2):
        z2 = z3 / 2
    return max(min(z2, _INSIDE * z3), (1 - _INSIDE) * z3)


def _beyond(z: float, f2: float, d2: float, f3: float, d3: float, z3: float, limit: float | None) -> float:
    """From the newest point, how far on: to the minimum of a cubic, neither too far nor too close to ``limit``."""
    try:
        a, b = _cubic(f2, d2, f3, d3, z3)
        z2 = -d2 * z3 * z3 / (b + math.sqrt(b * b - a * d2 * z3 * z3))
    except (ArithmeticError, ValueError):
        z2 = math.nan
    if limit is None:
        most = z * (_BEYOND - 1)
        return most if not 0 <= z2 < math.inf or z2 > most else max(z2, -z3 * _INSIDE)
    if not 0 <= z2 < math.inf or z + z2 > limit:
        return (limit - z) / 2
    if z2 < -z3 * _INSIDE:
        return -z3 * _INSIDE
    return max(z2, (limit - z) * (1 - _INSIDE)) if z2 < (limit - z) * (1 - _INSIDE) else z2


def _cubic(f2: float, d2: float, f3: float, d3: float, z3: float) -> tuple[float, float]:
    """The coefficients A and B of the cubic with these values and slopes at both ends of an interval z3."""
    return 6 * (f2 - f3) / z3 + 3 * (d2 + d3), 3 * (f3 - f2) - z3 * (d3 + 2 * d2)
