"""How ranks find out, without waiting for one another, that nothing can happen on any of them any more."""

from __future__ import annotations

from typing import Any

import numpy as np


class Consensus:
    """Rounds of one non-blocking sum over the ranks of ``comm``: messages sent, received, and stages unfinished.

    A rank enters a round when it can do nothing, and a round ends when all have entered; a rank that computes enters
    late. If two rounds on end find the same sums, with as many messages received as sent, then nobody received
    between them, so nobody did anything, and no message is under way: nothing can happen any more.
    Reference: Mattern 1987, the four-counter method.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self._mine, self._sums, self._before = (np.full(3, -1, np.int64) for _ in range(3))
        self._round: Any = None

    def ask(self, sent: int, received: int, unfinished: int) -> int | None:
        """To be asked while this rank can do nothing; all stages unfinished if nothing can happen, else None."""
        if self._round is None:
            self._mine[:] = sent, received, unfinished
            self._round = self.comm.Iallreduce(self._mine, self._sums)
        if not self._round.Test():
            return None
        self._round = None
        all_sent, all_received, all_unfinished = self._sums.tolist()
        quiet = all_sent == all_received and np.array_equal(self._sums, self._before)
        self._before[:] = self._sums
        return all_unfinished if quiet else None
