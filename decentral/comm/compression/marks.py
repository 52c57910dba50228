"""Positions of the True of many marks; of 1 to 5 % in half to three quarters of the time of ``np.flatnonzero``.

Where kernels are repaid in a third.
"""

from __future__ import annotations

import numpy as np

from decentral.comm.compression import loops
from decentral.comm.compression.packets import Array
from decentral.kernels import repaid


def positions_of(marks: Array) -> Array:
    """Ascending positions, int64, of True in bool (n,), in a few passes over words of 8 marks where few are set."""
    if repaid(len(marks)):
        places = np.empty(len(marks) + 1, np.int64)
        return places[: loops.positions(marks, places)]
    if np.count_nonzero(marks) > len(marks) // 16:
        return _branch_free(marks)
    whole = len(marks) // 8 * 8
    words = marks[:whole].view(np.uint64)
    of = _branch_free(words != 0)
    positions = np.flatnonzero(words[of].view(np.bool_))  # at least one in eight is set
    positions += (of - np.arange(len(of)) << 3)[positions >> 3]
    return np.append(positions, whole + np.flatnonzero(marks[whole:]))


def _branch_free(marks: Array) -> Array:
    """``np.flatnonzero``, which goes by branches, each mispredicted, unless more than one in ten is set: so it is."""
    extra = len(marks) // 8 + 1
    more = np.ones(len(marks) + extra, np.bool_)
    more[:-extra] = marks
    return np.flatnonzero(more)[:-extra]
