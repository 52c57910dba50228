"""The virtual clock: all stages in one process, in the order of simulated time. Deterministic.

Work is done when the clock reaches it and costs what the cost table says, never what it took. A message arrives
after its link's time; without a link model, at once.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from decentral.stages.requests import (
    Channel,
    Compute,
    DeadlockError,
    Done,
    Program,
    Recv,
    RecvAny,
    Send,
    StageError,
    waiting_for,
)
from decentral.stages.trace import Span, Trace, captured, payload_bytes

Cost = Callable[[int, str], float]
"""Seconds that work of a kind takes on a stage."""
Link = Callable[[Channel, int], tuple[float, float]]
"""(seconds a message of so many bytes occupies the channel, seconds more until it arrives)."""


class VirtualClock:
    """Runs the programs of stages 0, 1, ... to their end; ``run`` gives the trace.

    ``on_done(stage, t)`` is called when a stage has finished step t; it takes no time.
    ``around(stage, kind)`` is a context in which work is done, for meters.
    """

    def __init__(
        self,
        programs: Mapping[int, Program],
        cost: Cost,
        link: Link | None = None,
        on_done: Callable[[int, int], None] | None = None,
        around: Callable[[int, str], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.programs, self.cost, self.link = programs, cost, link
        self.on_done, self.around = on_done, around
        self.trace = Trace("simulated")
        self.now = 0.0
        self._events: list[tuple[float, int, Any, Any]] = []
        self._count = 0
        self._queues: defaultdict[Channel, deque[Any]] = defaultdict(deque)
        self._under_way: defaultdict[Channel, int] = defaultdict(int)
        self._free_at: defaultdict[Channel, float] = defaultdict(float)
        self._inbound: defaultdict[int, list[Channel]] = defaultdict(list)  # seen so far, in order
        self._blocked: dict[int, tuple[Any, float]] = {}  # stage -> what it waits for, since when

    def run(self) -> Trace:
        """Raises StageError if work fails, DeadlockError if no stage can go on."""
        for stage in self.programs:
            self._at(self.now, stage, None)
        while self._events:
            self.now, _, stage, value = heapq.heappop(self._events)
            if isinstance(stage, Channel):
                self._arrive(stage, value)
            else:
                self._resume(stage, value)
        if self._blocked:
            raise DeadlockError(
                "; ".join(waiting_for(k, request) for k, (request, _) in sorted(self._blocked.items()))
            )
        self.trace.makespan_s = self.now
        return self.trace

    def _at(self, time: float, stage: Any, value: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, stage, value))

    def _resume(self, stage: int, value: Any) -> None:
        """Let the program run until it has to wait."""
        program = self.programs[stage]
        while True:
            grad_mode = torch.is_grad_enabled()
            try:
                request = program.send(value)
            except StopIteration:
                return
            if torch.is_grad_enabled() is not grad_mode:
                torch.set_grad_enabled(grad_mode)
                raise StageError(f"stage {stage} yielded inside torch.no_grad() or the like; close it before")
            value = None
            if isinstance(request, Compute):
                value = self._work(stage, request)
                seconds = self.cost(stage, request.kind)
                self.trace.spans.append(Span(stage, request.kind, self.now, self.now + seconds, request.tag))
                if seconds > 0:
                    self._at(self.now + seconds, stage, value)
                    return
            elif isinstance(request, Send):
                if self._is_full(request.channel):
                    self._blocked[stage] = request, self.now
                    return
                self._post(request)
            elif isinstance(request, Done):
                if self.on_done:
                    self.on_done(stage, request.t)
            else:
                found, value = self._take(stage, request)
                if not found:
                    self._blocked[stage] = request, self.now
                    return

    def _work(self, stage: int, request: Compute) -> Any:
        with self.around(stage, request.kind) if self.around else nullcontext():
            return do_work(stage, request)

    def _is_full(self, channel: Channel) -> bool:
        return channel.capacity is not None and self._under_way[channel] >= channel.capacity

    def _post(self, request: Send) -> None:
        channel, value = request.channel, captured(request.value)
        size = payload_bytes(value)
        self.trace.channel_bytes[channel] += size
        self.trace.channel_messages[channel] += 1
        self._under_way[channel] += 1
        if self.link is None:
            self._arrive(channel, value)
            return
        occupied, delay = self.link(channel, size)
        self._free_at[channel] = max(self.now, self._free_at[channel]) + occupied
        self._at(self._free_at[channel] + delay, channel, value)

    def _arrive(self, channel: Channel, value: Any) -> None:
        queue = self._queues[channel]
        if channel not in self._inbound[channel.target]:
            self._inbound[channel.target].append(channel)
        queue.append(value)
        target = channel.target
        if target not in self._blocked:
            return
        request, since = self._blocked[target]
        if not isinstance(request, Send):
            found, answer = self._take(target, request)
            if found:
                self._wake(target, since, answer)

    def _take(self, stage: int, request: Recv | RecvAny) -> tuple[bool, Any]:
        """Whether the request can be granted now, and its answer."""
        if isinstance(request, Recv):
            queue = self._queues[request.channel]
            return (True, self._pop(request.channel)) if queue else (False, None)
        for channel in request.channels or self._inbound[stage]:
            if self._queues[channel]:
                return True, (channel, self._pop(channel))
        return not request.wait, None

    def _pop(self, channel: Channel) -> Any:
        value = self._queues[channel].popleft()
        self._under_way[channel] -= 1
        if channel.source in self._blocked:
            request, since = self._blocked[channel.source]
            if isinstance(request, Send) and request.channel == channel:
                self._wake(channel.source, since, None)
                self._post(request)
        return value

    def _wake(self, stage: int, since: float, value: Any) -> None:
        del self._blocked[stage]
        if self.now > since:
            self.trace.spans.append(Span(stage, "wait", since, self.now))
        self._at(self.now, stage, value)


def do_work(stage: int, request: Compute) -> Any:
    """The work's result. Raises StageError that names the stage and the work, unless it names them itself."""
    try:
        return request.work(*request.args)
    except StageError:
        raise
    except Exception as error:
        where = f"stage {stage}, {request.kind}" + (f" {request.tag}" if request.tag is not None else "")
        raise StageError(f"{where}: {type(error).__name__}: {error}") from error
