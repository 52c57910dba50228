"""Spoken words, one in each window of frames; an embedded set of made-up ones that share their phonemes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from topologies.streams import stream

Array = np.ndarray[Any, Any]

BANDS = 20
"""Numbers of a frame: log energies of bands, or what stands for them."""
HOP_S = 0.01
"""Seconds from one frame to the next."""


@dataclass(frozen=True, eq=False)
class Speech:
    """``frames`` (N, T, F) float32: N windows of T frames, in each a word with silence around it.

    ``progress`` (N, T) float32: how much of the word is over in the middle of a frame, 0 to 1; -1 in silence.
    ``words``, ``speakers`` (N,) int64: which of ``vocabulary`` is said, and by whom. ``test`` (N,): not for training.
    Shared by all who load the set in this process: do not write to them.
    """

    name: str
    frames: Array
    progress: Array
    words: Array
    speakers: Array
    test: Array
    vocabulary: tuple[str, ...]
    note: str


PHONEMES, THIRDS = 12, 3
_WORDS = ("abcd", "abce", "fbcd", "abdc", "dcba", "agcd", "hiab", "cdjk", "efgh", "ijkl")
_TRAIN, _TEST, _FRAMES, _SPEAKERS = 1_000, 3_000, 48, 8
_NOISE = 1.6  # standard deviation of a frame's numbers, where those of two phonemes differ by about 1


@functools.cache
def spoken_phonemes(root: Path | None = None) -> Speech:
    """Ten words of four of twelve phonemes: 1,000 windows to learn from, 3,000 to judge, 48 frames of 20 numbers each.

    A phoneme has three states, a state 1 + Poisson(1.2) frames, and a frame is Gaussian around the mean of its state
    plus an offset of its speaker, one of eight. Every fifth word is the first, "abcd"; the others share phonemes with
    it, in its order or not. All from the fixed stream (0, "speech"). ``root`` is unused.
    """
    del root
    rng = stream(0, "speech")
    phoneme = rng.standard_normal((PHONEMES, 1, BANDS)) + 0.5 * rng.standard_normal((PHONEMES, THIRDS, BANDS))
    spelled = np.array([[ord(letter) - ord("a") for letter in word] for word in _WORDS])
    silence = rng.standard_normal(BANDS) - 1
    offsets = 0.5 * rng.standard_normal((_SPEAKERS, BANDS))
    count = _TRAIN + _TEST
    words = np.where(rng.random(count) < 0.2, 0, rng.integers(1, len(_WORDS), count))
    speakers = rng.integers(_SPEAKERS, size=count)
    state = _states(rng, count, spelled.shape[1] * THIRDS)
    said = np.maximum(state, 0)
    means = phoneme[spelled[words[:, None], said // THIRDS], said % THIRDS] + offsets[speakers][:, None]
    means[state < 0] = silence
    frames = means + _NOISE * rng.standard_normal(means.shape)
    progress = np.where(state < 0, -1, (said + 0.5) / (spelled.shape[1] * THIRDS))
    return Speech(
        "spoken-phonemes", frames.astype(np.float32), progress.astype(np.float32), words, speakers,
        np.arange(count) >= _TRAIN, _WORDS, "drawn from a fixed stream; 1,000 windows for training, then 3,000",
    )  # fmt: skip


def _states(rng: np.random.Generator, count: int, states: int) -> Array:
    """(N, T): which state of its word each frame is in; -1 before and behind the word."""
    durations = 1 + rng.poisson(1.2, (count, states))
    while (long := durations.sum(1) > _FRAMES - 4).any():
        durations[long] = 1 + rng.poisson(1.2, (int(long.sum()), states))
    length = durations.sum(1)
    first = (rng.random(count) * (_FRAMES - length + 1)).astype(np.int64)
    at = np.arange(_FRAMES) - first[:, None]
    state = (durations.cumsum(1)[:, None] <= at[:, :, None]).sum(2)
    return np.where((at >= 0) & (at < length[:, None]), state, -1)
