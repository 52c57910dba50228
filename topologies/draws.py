"""Named draws: every rank that builds a schedule draws the same numbers, in any round and in any order."""

from __future__ import annotations

import hashlib

import numpy as np


def draws(seed: int, *name: str | int) -> np.random.Generator:
    """Fresh generator for ``name`` under ``seed``: Philox, keyed with the BLAKE2b hash of both.

    The last part of the name is the round where a schedule draws each round. No generator is kept between
    rounds, so round t is a function of (seed, name, t) alone.
    """
    text = "\x1f".join([str(int(seed)), *map(str, name)])
    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
