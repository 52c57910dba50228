"""Sets of k positions out of d as bytes, in the shortest of three forms; both sides choose it by d and k alone.

    list    uint32 each                                        4 k bytes                     (d <= 2^32)
    blocks  uint16 within a block of 65,536; how many in each  2 k + 4 (ceil(d / 65536) - 1) bytes
            block as uint32, but for the last, which is known
    bitmap  a bit for each of the d                            ceil(d / 8) bytes

A bitmap is shortest from about k = d / 16 on, the list for fewer than one in 32,768 or so.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from decentral.comm.compression.packets import Array, join, take

_BLOCK = 1 << 16


def position_bytes(k: int, d: int) -> int:
    """Bytes of k ascending positions below d."""
    return _form(k, d)[0]


def pack_positions(positions: Array, d: int) -> Tensor:
    """Ascending positions (k,) as uint8 (position_bytes,)."""
    form = _form(len(positions), d)[1]
    if form == "bitmap":
        marks = np.zeros(d, np.bool_)
        marks[positions] = True
        return join(np.packbits(marks))
    if form == "list":
        return join(positions.astype(np.uint32))
    counts = np.diff(np.searchsorted(positions, np.arange(0, d + _BLOCK, _BLOCK)))
    return join(counts[:-1].astype(np.uint32), positions.astype(np.uint16))  # uint16 drops the block


def take_positions(packet: Tensor, k: int, d: int) -> tuple[Array, Tensor]:
    """The positions, int64 (k,), at the head of a packet, and the rest of it."""
    n_bytes, form = _form(k, d)
    if form == "bitmap":
        marks, rest = take(packet, n_bytes, np.uint8)
        return np.flatnonzero(np.unpackbits(marks, count=d)), rest
    if form == "list":
        listed, rest = take(packet, k, np.uint32)
        return listed.astype(np.int64), rest
    counts, rest = take(packet, -(-d // _BLOCK) - 1, np.uint32)
    counts = np.append(counts, np.uint32(k - counts.sum()))
    low, rest = take(rest, k, np.uint16)
    return np.repeat(np.arange(len(counts)) * _BLOCK, counts) + low, rest


def _form(k: int, d: int) -> tuple[int, str]:
    forms = [(2 * k + 4 * (-(-d // _BLOCK) - 1), "blocks"), (-(-d // 8), "bitmap")]
    if d <= 1 << 32:
        forms.append((4 * k, "list"))
    return min(forms)
