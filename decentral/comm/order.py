"""An order in which rows can be mixed while few of them are kept: for a ring of any size five."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RowOrder:
    """Rows i = 0, 1, ..., h - 1 of W z are made in turn, each when the rows of z that it needs lie in their slots.

    Before row i: rows ``ready[k]`` of z are put into slots ``into[k]`` for k in ``ready_from[i] : ready_from[i + 1]``.
    Row i: the sum over slots ``terms[k]`` for k in ``terms_from[i] : terms_from[i + 1]``, each times its weight.
    """

    slots: int
    ready_from: NDArray[np.int32]
    ready: NDArray[np.int32]
    into: NDArray[np.int32]
    terms_from: NDArray[np.int32]
    terms: NDArray[np.int32]

    @classmethod
    def of(cls, offsets: NDArray[np.int32], rows: NDArray[np.int32], at_once: bool = False) -> RowOrder:
        """For sums over ``rows``, those of row i in ``offsets[i] : offsets[i + 1]``.

        Row i of z is ready before row i of W z is made; ``at_once``: all are before the first.
        """
        h = len(offsets) - 1
        by = np.repeat(np.arange(h), np.diff(offsets))
        first, last = np.arange(h), np.arange(h)
        np.minimum.at(first, rows, by)
        np.maximum.at(last, rows, by)
        if at_once:
            first[:] = 0
        ready = np.argsort(first, kind="stable")
        slot, slots = _slots(ready.tolist(), first.tolist(), last.tolist())
        return cls(
            slots=slots,
            ready_from=np.searchsorted(first[ready], np.arange(h + 1)).astype(np.int32),
            ready=ready.astype(np.int32),
            into=slot[ready].astype(np.int32),
            terms_from=offsets.astype(np.int32),
            terms=slot[rows].astype(np.int32),
        )


def _slots(ready: list[int], first: list[int], last: list[int]) -> tuple[NDArray[np.int64], int]:
    """(slot of each row, how many there are): a slot is free again after the last row that needs it."""
    slot = np.zeros(len(first), dtype=np.int64)
    free: list[int] = []
    used, ended = 0, np.argsort(last, kind="stable").tolist()
    left = 0  # of ``ended``: those before it are free
    for row in ready:
        while last[ended[left]] < first[row]:
            free.append(int(slot[ended[left]]))
            left += 1
        if free:
            slot[row] = free.pop()
        else:
            slot[row], used = used, used + 1
    return slot, used
