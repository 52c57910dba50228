"""Named streams of randomness: worker 3 draws the same numbers in every world.

There is no global seed and no generator state to save: a stream is a function of its
name, so round 812 of worker 3 can be drawn again after a restart, or on another rank.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream_key(seed: int, *name: str | int) -> int:
    """The 128-bit key of the stream called ``name`` under ``seed`` (BLAKE2b of the parts)."""
    text = "\x1f".join([str(int(seed)), *map(str, name)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """A fresh generator for ``name``, for instance ``stream(0, "noise", worker, round)``."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, *name)))
