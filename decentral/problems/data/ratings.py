"""Ratings: who rated what, how and when; and a set of low rank that is drawn, so that its noise floor is known."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from topologies.streams import stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

USERS, ITEMS, RANK = 1_000, 150, 3
DENSITY, NOISE = 0.2, 0.5
"""Of the low-rank set: the share of its matrix that is rated, and the noise's standard deviation."""


@dataclass(frozen=True, eq=False)
class Ratings:
    """Rating k is ``values[k]``, of item ``items[k]`` by user ``users[k]`` at ``times[k]``; all arrays are (N,).

    ``users``, ``items``: int64, as the file numbers them; ``values``: float64; ``times``: float64, seconds since
    1970. ``expected``: each rating without its noise, float64; None where nobody knows it.
    """

    name: str
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float64]
    times: NDArray[np.float64]
    note: str
    expected: NDArray[np.float64] | None = None


@functools.cache
def low_rank(root: Path | None = None) -> Ratings:
    """r_ui = 3 + a_u + b_i + p_u . q_i + eps for a fifth of 1,000 users x 150 items; embedded, ``root`` is unused.

    a and b are drawn from N(0, 0.4^2), p_u . q_i has rank 3 and variance 0.8^2, and eps is from N(0, 0.5^2): so 0.5 is
    the root mean square error of who knows all but the noise, and nobody is better. Ratings are real numbers, and
    neither rounded nor cut; their times are a random order.
    """
    del root
    draw = stream(0, "ratings", "low-rank")
    means = 3 + 0.4 * draw.standard_normal((USERS, 1)) + 0.4 * draw.standard_normal((1, ITEMS))
    tastes, traits = draw.standard_normal((USERS, RANK)), draw.standard_normal((RANK, ITEMS))
    means = means + 0.8 / np.sqrt(RANK) * tastes @ traits
    users, items = np.nonzero(draw.random((USERS, ITEMS)) < DENSITY)
    expected = means[users, items]
    values = expected + NOISE * draw.standard_normal(len(users))
    times = draw.permutation(len(users)).astype(np.float64)
    note = f"drawn from a fixed stream; {len(users):,} ratings with noise of standard deviation {NOISE}"
    return Ratings("low-rank", users, items, values, times, note, expected)
