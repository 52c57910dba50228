"""A text as a data set of windows, and which worker owns which of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from decentral.errors import UserError, nearest
from decentral.problems.data.dataset import Dataset
from decentral.problems.data.partitions import partition
from decentral.problems.data.text import Text, text_windows
from topologies.streams import stream
from topologies.wording import shown

Parts = list[NDArray[np.int64]]


def windows_of(text: Text, context: int) -> Dataset:
    """The text's two parts as samples: tokens (N, T) and those that follow, (N, T), T = ``context``, all int64.

    Window i has tokens i T .. i T + T - 1 of its part, so each token is in one window and predicted once; a shorter
    rest is left out. The test part is the validation part. Views of the text's tokens: do not write to them.
    Raises UserError if a part is too short for one window.
    """
    train, test = (text_windows(part, context) for part in (text.train, text.validation))
    note = f"{text.note}; windows of {context} {text.unit}"
    return Dataset(*train, *test, text.vocabulary, text.name, note)


def deal_windows(windows: Dataset, workers: int, kind: str, seed: int, unit: str = "characters") -> Parts:
    """Sorted training windows (int64) of each of the n workers; together all, sizes differing by one at most.

    ``kind``: ``iid`` deals a random permutation, drawn from the stream (seed, "partition"); ``contiguous`` gives
    worker i the i-th stretch of the text.
    Raises UserError for an unknown kind, and for more workers than windows.
    """
    count, context = windows.train_x.shape
    if kind not in WINDOW_PARTITIONS:
        raise UserError(f"unknown partition {shown(kind)}; {nearest(kind, WINDOW_PARTITIONS)}")
    if not 1 <= workers <= count:
        raise UserError(
            f"the text {shown(windows.name)} has {count} windows of {context} {unit}, too few for "
            f"{workers} workers; use fewer workers or a shorter problem.context"
        )
    return WINDOW_PARTITIONS[kind](count, workers, seed)


def _iid(count: int, workers: int, seed: int) -> Parts:
    return partition(np.zeros(count, np.int64), workers, "iid", stream(seed, "partition"))


def _contiguous(count: int, workers: int, seed: int) -> Parts:
    del seed
    return np.array_split(np.arange(count), workers)


WINDOW_PARTITIONS: dict[str, Callable[[int, int, int], Parts]] = {"iid": _iid, "contiguous": _contiguous}
