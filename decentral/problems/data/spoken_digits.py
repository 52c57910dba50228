"""The Free Spoken Digit Dataset: digits in English, a file each, by a few speakers."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from decentral.errors import UserError
from decentral.problems.data.data_root import find_file
from decentral.problems.data.log_mel import frame_samples, log_mel
from decentral.problems.data.speech import BANDS, Speech
from decentral.problems.data.wav_files import read_wav
from topologies.streams import stream
from topologies.wording import shown

Array = np.ndarray[Any, Any]

FSDD_HOME = "https://github.com/Jakobovski/free-spoken-digit-dataset"
RATE, FRAMES = 8_000, 80
TEST_NUMBERS = 5
"""The official split: recordings numbered 0 to 4 of each digit and speaker are the test part."""

_FOLDERS = ("fsdd/recordings", "recordings", "free-spoken-digit-dataset/recordings")
_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]{1,6})\.wav")
_NOISE = 1e-3  # of full scale, -60 dB: what is heard around a word and below it


class Recording(NamedTuple):
    """One file: a digit that somebody says for the number-th time."""

    path: Path
    digit: int
    speaker: str
    number: int


@functools.cache
def spoken_digits(root: Path | None) -> Speech:
    """Digits 0 to 9 in windows of 80 frames, 0.8 s, of 20 log-mel bands; recordings numbered 0 to 4 are for testing.

    A recording lies anywhere in its window (stream (0, "fsdd", digit, speaker, number)), in white noise 60 dB below
    full scale; of a longer one the middle is kept. Bands have mean 0 and variance 1 over the training part. Raises
    `UserError` for files that are none of the set's, or not 8 kHz, mono, 16 bit.
    """
    recordings = recordings_in(root)
    windows, progress = zip(*map(_window, recordings), strict=True)
    test = np.array([r.number < TEST_NUMBERS for r in recordings])
    for part, some in (("test", test), ("training", ~test)):
        if not some.any():
            raise UserError(
                f"{recordings[0].path.parent}: no recording is in the {part} part (numbers 0 to {TEST_NUMBERS - 1} are "
                f"for testing); get the set from {FSDD_HOME}"
            )
    frames = np.stack(windows)
    mean, std = frames[~test].mean((0, 1)), frames[~test].std((0, 1))
    names = sorted({r.speaker for r in recordings})
    return Speech(
        "fsdd",
        ((frames - mean) / std).astype(np.float32),
        np.stack(progress).astype(np.float32),
        np.array([r.digit for r in recordings]),
        np.array([names.index(r.speaker) for r in recordings]),
        test,
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        "recordings numbered 0 to 4 are the test part; log-mel bands standardised by the training part",
    )


def recordings_in(root: Path | None) -> list[Recording]:
    """The set's files in order. Raises `UserError` that names the first that is called otherwise."""
    folder = find_file(root, "fsdd", ["0_george_0.wav"], FSDD_HOME, _FOLDERS).parent
    found = []
    for path in sorted(folder.glob("*.wav")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise UserError(
                f"{folder}: {shown(path.name)} is not called DIGIT_SPEAKER_NUMBER.wav, as 7_jackson_12.wav is; rename "
                "or remove it"
            )
        digit, speaker, number = match.groups()
        found.append(Recording(path, int(digit), speaker, int(number)))
    return sorted(found, key=lambda r: (r.digit, r.speaker, r.number))


def _window(recording: Recording) -> tuple[Array, Array]:
    """(T, bands) and the progress (T,) of a window with the recording in it."""
    sound = read_wav(recording.path, RATE, 0.025, 10.0)
    rng = stream(0, "fsdd", recording.digit, recording.speaker, recording.number)
    room = frame_samples(FRAMES, RATE)
    whole, first = len(sound), int(rng.integers(max(1, room - len(sound) + 1)))
    cut = max(0, (whole - room) // 2)
    sound = sound[cut : cut + room]
    window = _NOISE * rng.standard_normal(room)
    window[first : first + len(sound)] += sound
    middle = np.arange(FRAMES) * (RATE // 100) + RATE // 80  # samples; a frame has 200, one begins every 80
    over = (middle - first + cut) / whole
    return log_mel(window, RATE, BANDS), np.where((middle >= first) & (middle < first + len(sound)), over, -1)
