"""A span in bins of consecutive entries, and a code for each entry that is sent.

    bits  0 ... w - 3   place in its bin; all ones: the bin is empty, and this is its only code
    bit   w - 2         the entry is negative
    bit   w - 1         the entry is the last one sent of its bin

w = 8 for bins of at most 63 entries, else 16, for at most 16,383. Last bits say where bins end, so no count is sent,
and a reader who knows how many bins there are knows where the codes end.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from decentral.comm.compression.packets import Array, take

WIDEST = (1 << 14) - 1  # entries of a bin


def bin_codes(places: Array, negative: Array, n: int, width: int) -> Array:
    """Codes, uint8 or uint16, of the ``places`` sent, ascending, of a span of n entries in bins of ``width``."""
    code, w, bins = *_code(width), -(-n // width)
    places = places.view(np.uint64)  # numpy divides these faster
    of = places // np.uint64(width)
    last = np.ones(len(of), np.bool_)
    np.not_equal(of[1:], of[:-1], out=last[:-1])
    codes: Array = (places - of * np.uint64(width)).astype(code)
    codes |= negative * code(1 << w - 2)
    codes |= last * code(1 << w - 1)
    if np.count_nonzero(last) == bins:
        return codes
    full = np.zeros(bins, np.bool_)
    full[of.view(np.int64)] = True
    empty = np.flatnonzero(~full)
    return np.insert(codes, np.searchsorted(of, empty.view(np.uint64)), code((1 << w - 2) - 1 | 1 << w - 1))


def codes_of(packet: Tensor, n: int, width: int) -> tuple[Array, Tensor]:
    """The codes of a span, from the head of a packet, and the rest of it. Raises ValueError where it has fewer bins."""
    code, w, bins = *_code(width), -(-n // width)
    at_most = min(n + bins, len(packet) * 8 // w)
    ends = np.flatnonzero(take(packet, at_most, code)[0] >> w - 1)
    if len(ends) < bins:
        raise ValueError(f"a packet has {len(ends)} of {bins} bins; it was cut or is another's")
    return take(packet, ends[bins - 1] + 1, code)


def take_bins(packet: Tensor, n: int, width: int) -> tuple[Array, Array, Tensor]:
    """Places of a span and whether they are negative, from the head of a packet, and the rest of it.

    Raises ValueError where the packet has fewer bins.
    """
    w = _code(width)[1]
    taken, packet = codes_of(packet, n, width)
    codes = taken.astype(np.int64)
    last, places = codes >> w - 1, codes & (1 << w - 2) - 1
    kept = np.flatnonzero(places != (1 << w - 2) - 1)
    of = np.cumsum(last) - last
    return of[kept] * width + places[kept], (codes[kept] >> w - 2 & 1) > 0, packet


def _code(width: int) -> tuple[type[np.uint8] | type[np.uint16], int]:
    return code_type(width), 8 * np.dtype(code_type(width)).itemsize


def code_type(width: int) -> type[np.uint8] | type[np.uint16]:
    """The dtype of the codes of bins of so many entries."""
    return np.uint8 if width < 1 << 6 else np.uint16
