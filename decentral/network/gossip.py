"""The messages of each round of a schedule on a cluster, worked out once where rounds repeat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.network.cluster import Cluster, Messages, messages
from topologies import Schedule


class Gossip:
    """``schedule`` on ``cluster``. Raises UserError, before any round, if they do not fit.

    Of a schedule that never repeats round 0 alone is looked at before.
    """

    def __init__(self, schedule: Schedule, cluster: Cluster) -> None:
        self.schedule, self.cluster = schedule, cluster
        self._kept: dict[tuple[int, float], Messages] = {}
        for t in range(schedule.period or 1):
            messages(schedule.matrix(t), cluster, 0.0)

    def phase(self, t: int, message_bytes: float | NDArray[np.float64]) -> Messages:
        """The messages of round t, of ``message_bytes`` each: a number, or (n,), those of each sender."""
        if self.schedule.period is None or isinstance(message_bytes, np.ndarray):
            return self._of(t, message_bytes)
        key = t % self.schedule.period, message_bytes
        if key not in self._kept:
            self._kept[key] = self._of(t, message_bytes)
        return self._kept[key]

    def _of(self, t: int, message_bytes: Any) -> Messages:
        return messages(self.schedule.matrix(t), self.cluster, message_bytes)
