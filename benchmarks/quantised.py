"""Networks of few bits: what fake quantisation adds to a training step, and the exact search for a layer's integers.

Question: is few bits' training dear, and is the search for the least n quick enough to convert a network at once? The
steps are of a CNN of 16 channels on 32 images of 28 x 28. The search is for 16 channels, 4 bits out, sums up to 4,095;
it is held against one that looks at every sum: for each n, each A near alpha 2^n, all x at once by numpy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import Line, at_least, at_most, interleaved, print_lines
from decentral.comm.launch import one_thread
from decentral.problems.models.convolutional import cnn
from decentral.problems.models.quantised_cnn import quantised_cnn
from decentral.quantised.shared_shift import fixed_point

REACH, MOST, CHANNELS = 4095, 15, 16


def measure() -> list[Line]:
    with one_thread():
        return [_steps(), _search()]


def _steps() -> Line:
    works = {"few bits": _step(quantised_cnn((1, 28, 28), 10)), "float": _step(cnn((1, 28, 28), 10))}
    times = interleaved(works, repeats=41, warm=5)
    what = (
        "a gradient of a CNN on 32 images of 28 x 28: weights and activations of 4 bits / of floating point"
    )
    return at_most(what, times["few bits"], times["float"], 1.5)


def _step(module: nn.Module) -> Callable[[], None]:
    x, y = torch.randn(32, 1, 28, 28), torch.randint(0, 10, (32,))

    def work() -> None:
        module.zero_grad()
        cross_entropy(module(x), y).backward()

    return work


def _search() -> Line:
    rng = np.random.default_rng(0)
    alpha = [Fraction(float(a)) for a in rng.normal(size=CHANNELS) * 0.01]
    beta = [Fraction(float(b)) for b in rng.normal(size=CHANNELS) * 4]
    ours = fixed_point(alpha, beta, REACH, 0, MOST)
    assert ours.bits == _by_every_sum(alpha, beta)
    works = {
        "corners": lambda: fixed_point(alpha, beta, REACH, 0, MOST),
        "all sums": lambda: _by_every_sum(alpha, beta),
    }
    times = interleaved(works, repeats=3, warm=0)
    what = f"least n of {CHANNELS} channels, sums to {REACH:,}: corners of staircases / every sum by numpy"
    return at_least(what, times["corners"], times["all sums"], 20)


def _by_every_sum(alpha: list[Fraction], beta: list[Fraction]) -> int:
    x = np.arange(-REACH, REACH + 1)
    layer = [_floors(a, b, x) for a, b in zip(alpha, beta, strict=True)]
    return max(
        next(n for n in itertools.count() if _has_integers(a, y, x, n))
        for a, y in zip(alpha, layer, strict=True)
    )


def _floors(a: Fraction, b: Fraction, x: np.ndarray) -> np.ndarray:
    """The float layer; in doubles, which serve for these numbers."""
    return np.clip(np.floor(float(a) * x + float(b) + 0.5), 0, MOST).astype(np.int64)


def _has_integers(a: Fraction, y: np.ndarray, x: np.ndarray, n: int) -> bool:
    """Whether an A has a B: all A that could, those within the slopes that the first and the last step leave."""
    inside = (y > 0) & (y < MOST)
    if not inside.any():
        inside = np.ones_like(y, dtype=bool)
    middle, width = round(a * 2**n), 2 + (2 << n) // max(1, int(np.count_nonzero(inside)))
    for scale in range(middle - width, middle + width + 1):
        low = ((y << n) - scale * x)[y > 0]
        high = (((y + 1) << n) - 1 - scale * x)[y < MOST]
        if not low.size or not high.size or low.max() <= high.min():
            return True
    return False


if __name__ == "__main__":
    print_lines("quantised", measure())
