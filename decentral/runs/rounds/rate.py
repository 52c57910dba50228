"""The learning rate of each round of a run, where its schedule may go by the losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.comm.world import World
from decentral.optimizers.listening import Listening
from decentral.runs.journal import Journal
from decentral.runs.rounds.config import RoundsRun

NOTE = "schedule.json"
"""The file beside the records that says what a schedule has decided."""


class Rate:
    """``lr(t)`` of the run's schedule. One that listens is told the losses, in the mean over all workers.

    Every rank calls it alike; rank 0 decides for all. ``kept``: its :meth:`state` in a checkpoint.
    """

    def __init__(self, run: RoundsRun, world: World, journal: Journal, kept: Any = None) -> None:
        self.run, self.world, self.journal = run, world, journal
        rates = run.rates
        self._listening = rates if isinstance(rates, Listening) else None
        self._state: dict[str, Any] = {}
        if self._listening is not None:
            self._state = dict(kept or self._listening.begin())
        self._told: Callable[[int], float] | None = None

    def told(self, lr: Callable[[int], float]) -> None:
        """From here on it is ``lr(t)``, and nothing is decided."""
        self._told = lr

    def lr(self, t: int) -> float:
        """Of round t."""
        if self._told:
            return self._told(t)
        return self._listening.lr_after(self._state, t) if self._listening else self.run.lr(t)

    def decides(self, t: int) -> bool:
        """Whether losses must be looked at now that t rounds are done."""
        return self._listening is not None and not self._told and self._listening.decides(self._state, t)

    def hear(self, losses: NDArray[np.float64], t: int) -> None:
        """Of all workers (rounds, n), those up to the round t that comes next."""
        schedule = self._listening
        if schedule is None or self._told:
            return
        self._state = schedule.heard(self._state, losses.mean(axis=1).tolist())
        if not schedule.decides(self._state, t):
            return
        before = self._state
        self._state = self.world.from_root(lambda: schedule.decided(before, t))
        if note := schedule.note(self._state):
            self.journal.leave(NOTE, note)

    def state(self) -> dict[str, Any] | None:
        """For a checkpoint; None where there is nothing to keep."""
        return self._state or None

    def columns(self, t: int) -> Mapping[str, float]:
        """lr: that of the newest of t rounds, where it is not told by the run's file."""
        return {"lr": self.lr(max(0, t - 1))} if self._listening else {}
