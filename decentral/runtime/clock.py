"""The virtual clock: all stages in one process, in the order of simulated time. Deterministic.

Work is done when the clock reaches it and costs what the cost table says, never what it took. A message arrives
after its link's time; without a link model, at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from decentral.runtime.driver import Driver, Line, do_work
from decentral.runtime.requests import Channel, Compute, DeadlockError, Program, RecvAny
from decentral.runtime.trace import Span, Trace, captured

Cost = Callable[[int, str], float]
"""Seconds that work of a kind takes on a stage."""
Link = Callable[[Channel, int], tuple[float, float]]
"""(seconds a message of so many bytes occupies the channel, seconds more until it arrives)."""


class VirtualClock(Driver):
    """Runs the programs to their end; ``run`` gives the trace.

    ``on_done(stage, t)`` is called when a stage has finished step t; it takes no time.
    ``around(stage, kind)`` is a context in which work is done, for meters.
    """

    now = 0.0

    def __init__(
        self,
        programs: Mapping[int, Program],
        cost: Cost,
        link: Link | None = None,
        on_done: Callable[[int, int], None] | None = None,
        around: Callable[[int, str], AbstractContextManager[Any]] | None = None,
    ) -> None:
        super().__init__(programs, on_done, Trace("simulated"))
        self.cost, self.link, self.around = cost, link, around
        self._events: list[tuple[float, int, Any, Any]] = []  # later: time, order, a stage or a line, value
        self._count = 0

    def run(self) -> Trace:
        """Raises StageError if work fails, DeadlockError if no stage can go on."""
        ready, events = self.ready, self._events
        while ready or events:
            while ready:
                self.resume(*ready.popleft())
            if events:
                self.now, _, what, value = heapq.heappop(events)
                if type(what) is Line:
                    self.arrive(what, value)
                else:
                    ready.append((what, value))
        if self.blocked:
            raise DeadlockError("; ".join(text for _, text in self.waiting()))
        self.count_traffic()
        self.trace.makespan_s = self.now
        return self.trace

    def compute(self, stage: int, request: Compute) -> tuple[bool, Any]:
        """See :class:`Driver`: the work is done now, and its answer comes after its cost."""
        if self.around is None:
            value = do_work(stage, request)
        else:
            with self.around(stage, request.kind):
                value = do_work(stage, request)
        seconds = self.cost(stage, request.kind)
        self.trace.add(Span(stage, request.kind, self.now, self.now + seconds, request.tag))
        if seconds > 0:
            self._at(self.now + seconds, stage, value)
        return seconds <= 0, value

    def carry(self, line: Line, value: Any, size: int) -> None:
        """See :class:`Driver`."""
        if isinstance(value, (Tensor, list, tuple)):
            value = captured(value)
        if self.link is None:
            self.arrive(line, value)
            return
        occupied_s, delay_s = self.link(line.channel, size)
        line.free_at_s = max(self.now, line.free_at_s) + occupied_s
        self._at(line.free_at_s + delay_s, line, value)

    def poll_later(self, stage: int, request: RecvAny) -> bool:
        """See :class:`Driver`: what arrives at this very moment counts as here."""
        if self.ready or (self._events and self._events[0][0] <= self.now):
            self._at(self.now, stage, request)
            return True
        return False

    def _at(self, time: float, what: Any, value: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, what, value))
