"""Copies of all parts of a run, of one moment each, put together on rank 0 when the last has come.

Parts do not meet to be measured: each copies its state and goes on, and copies over MPI are posted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.world import World


def copied(x: Tensor) -> Tensor:
    """A copy on the CPU: what is posted is pickled, and would come back on a device of its sender's number."""
    return x.detach().to("cpu", copy=True)


class Gathering:
    """``complete(moment, copies)`` is called on rank 0 with the copies of all ``count`` parts, in the order of parts.

    ``spent_s``: how long these calls have taken; the parts that rank 0 hosts stood still meanwhile.
    ``training_s``: seconds since :meth:`begin` without them, the wall time of a run.
    """

    def __init__(self, world: World, count: int, complete: Callable[[int, list[Any]], None]) -> None:
        self.world, self.count, self.complete = world, count, complete
        self.spent_s = self._began_s = 0.0
        self._waiting: dict[int, dict[int, Any]] = {}

    def begin(self) -> None:
        """Training begins."""
        self._began_s, self.spent_s = time.perf_counter(), 0.0

    @property
    def training_s(self) -> float:
        """See the class."""
        return time.perf_counter() - self._began_s - self.spent_s

    def hand_over(self, moment: int, part: int, copy: Any) -> None:
        """On any rank: this is part ``part`` at ``moment``."""
        if self.world.rank == 0:
            self._arrived(moment, part, copy)
            self.collect()
        else:
            self.world.post((moment, part, copy))

    def collect(self) -> None:
        """On rank 0: take what has come."""
        for moment, part, copy in self.world.posted():
            self._arrived(moment, part, copy)

    def _arrived(self, moment: int, part: int, copy: Any) -> None:
        copies = self._waiting.setdefault(moment, {})
        copies[part] = copy
        if len(copies) == self.count:
            del self._waiting[moment]
            began = time.perf_counter()
            self.complete(moment, [copies[part] for part in range(self.count)])
            self.spent_s += time.perf_counter() - began
