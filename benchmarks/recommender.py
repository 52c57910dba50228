"""The recommender: what masked ratings and re-feeding cost over the matrix products of the autoencoder alone.

Question: is a gradient of masked squares as fast as its matrix products, and a pair of rounds of a re-fed batch as
fast as two rounds and the forward pass that it makes anew? Of 1,682 items (MovieLens-100K) and 943 users, batches of
128, widths 512 and 256, one thread.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Line, at_most, interleaved, print_lines
from decentral.allocator import keep_freed_memory
from decentral.comm.launch import one_thread
from decentral.problems.data.rating_rows import RatingRows, deal_users, rating_rows
from decentral.problems.data.rating_split import TimeSplit
from decentral.problems.data.ratings import Ratings
from decentral.problems.models.autoencoder import autoencoder
from decentral.problems.models.tried import TRUSTED
from decentral.problems.objective import Place
from decentral.problems.rating_objective import RatingObjective
from topologies.streams import stream

USERS, ITEMS, BATCH, WIDTHS = 943, 1_682, 128, (512, 256)


def measure() -> list[Line]:
    keep_freed_memory()
    with one_thread():
        plain, fed = _gradients(refeed=False), _gradients(refeed=True)
        products = _products()
        works: dict[str, Callable[[], Any]] = {
            "products": products,
            "forward": functools.partial(products, False),
            "gradient": functools.partial(plain, 0),
            "two": lambda: (plain(0), plain(0)),
            "pair": lambda: (fed(0), fed(1)),
        }
        times = interleaved(works, repeats=41, warm=3)
    return [
        at_most("a gradient / its matrix products alone", times["gradient"], times["products"], 1.3),
        at_most(
            "a batch and its re-feeding / two gradients and a forward pass",
            times["pair"], times["two"] + times["forward"], 1.15,
        ),
    ]  # fmt: skip


def _rows() -> RatingRows:
    draw = stream(0, "benchmark", "ratings")
    users, items = np.nonzero(draw.random((USERS, ITEMS)) < 0.063)
    values = draw.integers(1, 6, size=len(users)).astype(np.float64)
    times = draw.permutation(len(users)).astype(np.float64)
    return rating_rows(Ratings("drawn", users, items, values, times, ""), TimeSplit())


def _gradients(refeed: bool) -> Callable[[int], Any]:
    """The gradient of one worker in round t."""
    rows = _rows()
    place = Place(1, range(1), 0, torch.float32, torch.device("cpu"), BATCH, 0.0, "loop", 100)
    module = autoencoder(rows.classes, WIDTHS)
    objective = RatingObjective(module, rows, deal_users(rows, 1, "iid", 0), place, TRUSTED, refeed)
    x = objective.start()[None].clone()
    return lambda t: list(objective.gradient(x, t))


def _products() -> Callable[..., Any]:
    """The products of a pass: y = x W' forward; g W and g' x backward, but for the gradient at the first input."""
    sizes = [ITEMS, *WIDTHS, *reversed(WIDTHS[:-1]), ITEMS]
    pairs = list(itertools.pairwise(sizes))
    weights = [torch.randn(b, a) for a, b in pairs]
    inputs = [torch.randn(BATCH, a) for a, _ in pairs]
    gradients = [torch.randn(BATCH, b) for _, b in pairs]
    into = [torch.empty(b, a) for a, b in pairs]

    def work(backward: bool = True) -> Tensor:
        for k, (w, x, g) in enumerate(zip(weights, inputs, gradients, strict=True)):
            y = x @ w.T
            if backward:
                torch.mm(g.T, x, out=into[k])
                y = g @ w if k else y
        return y

    return work


if __name__ == "__main__":
    print_lines(Path(__file__).stem, measure())
