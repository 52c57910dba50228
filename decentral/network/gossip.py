"""The messages of each round of a schedule on a cluster, worked out once where rounds repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.network.cluster import Cluster, Messages, messages, messages_between
from topologies import Schedule

Sent = Callable[[int], tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]
"""Round to the messages that are sent in it: (m,) senders, receivers, and whether they come in time."""


class Gossip:
    """``schedule`` on ``cluster``. Raises UserError, before any round, if they do not fit.

    Of a schedule that never repeats round 0 alone is looked at before. ``sent``: where messages have fates of their
    own; for those that do not come in time nobody waits.
    """

    def __init__(self, schedule: Schedule, cluster: Cluster, sent: Sent | None = None) -> None:
        self.schedule, self.cluster, self.sent = schedule, cluster, sent
        self._kept: dict[tuple[int, float], Messages] = {}
        for t in range(schedule.period or 1):
            messages(schedule.matrix(t), cluster, 0.0)

    def phase(self, t: int, message_bytes: float | NDArray[np.float64]) -> Messages:
        """The messages of round t, of ``message_bytes`` each: a number, or (n,), those of each sender."""
        if self.sent is not None:
            senders, receivers, in_time = self.sent(t)
            return messages_between(senders, receivers, self.cluster, message_bytes, in_time)
        if self.schedule.period is None or isinstance(message_bytes, np.ndarray):
            return self._of(t, message_bytes)
        key = t % self.schedule.period, message_bytes
        if key not in self._kept:
            self._kept[key] = self._of(t, message_bytes)
        return self._kept[key]

    def _of(self, t: int, message_bytes: Any) -> Messages:
        return messages(self.schedule.matrix(t), self.cluster, message_bytes)
