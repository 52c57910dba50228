"""Windows of speech as samples for a keyword: a class for each frame, and which worker owns which window."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.errors import UserError
from decentral.problems.data.dataset import Dataset
from decentral.problems.data.partitions import partition
from decentral.problems.data.speech import Speech
from topologies.streams import stream

Array = np.ndarray[Any, Any]
MORE = 2
"""Classes besides the keyword's states: silence is class S, the background of other words S + 1."""


@functools.lru_cache(maxsize=16)
def segments_of(speech: Speech, keyword: int, states: int) -> Dataset:
    """Frames (N, T, F) and their classes (N, T) of ``states`` + 2, in the order of the set.

    The keyword is cut into S = ``states`` parts by how much of it is over. Raises UserError for a word that the set has
    not, or not in both parts, and for more states than the keyword ever has frames.
    """
    if not 0 <= keyword < len(speech.vocabulary):
        raise UserError(
            f"problem.keyword = {keyword} is no word of {speech.name}; choose 0 to {len(speech.vocabulary) - 1}"
        )
    said, test = speech.words == keyword, speech.test
    for part, some in (("training", ~test), ("test", test)):
        if not (said & some).any() or not (~said & some).any():
            raise UserError(
                f"{speech.name} has no keyword {keyword} ({speech.vocabulary[keyword]}), or nothing else, in its "
                f"{part} part; choose another problem.keyword"
            )
    longest = int((speech.progress[said] >= 0).sum(1).max())
    if states > longest:
        raise UserError(
            f"problem.phonemes gives {states} states, and the keyword has {longest} frames at most; use fewer phonemes"
        )
    reached = np.minimum((speech.progress * states).astype(np.int64), states - 1)
    classes = np.where(speech.progress < 0, states, np.where(said[:, None], reached, states + 1))
    train_part, test_part = ((speech.frames[some], classes[some]) for some in (~test, test))
    return Dataset.of(speech.name, train_part, test_part, states + MORE, speech.note)


def deal_segments(speech: Speech, workers: int, kind: str, seed: int) -> list[NDArray[np.int64]]:
    """Training windows of each of the n workers: "iid" at random; "speaker", worker i has speakers i, i + n, ...

    Raises UserError for more workers than speakers, or than windows.
    """
    speakers = speech.speakers[~speech.test]
    if kind == "iid":
        return partition(np.zeros(len(speakers), np.int64), workers, "iid", stream(seed, "partition"))
    names = np.unique(speakers)
    if workers > len(names):
        raise UserError(
            f'problem.partition = "speaker" has {len(names)} speakers for {workers} workers; use {len(names)} workers '
            'at most, or "iid"'
        )
    holder = np.searchsorted(names, speakers) % workers
    return [np.flatnonzero(holder == worker) for worker in range(workers)]
