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
from torch import Tensor

from decentral.stages.requests import (
    Channel,
    Compute,
    DeadlockError,
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


class _Line:
    """The state of one channel."""

    __slots__ = (
        "bytes",
        "capacity",
        "channel",
        "free_at_s",
        "messages",
        "queue",
        "sender_waits",
        "under_way",
    )

    def __init__(self, channel: Channel) -> None:
        self.channel, self.capacity = channel, channel.capacity
        self.queue: deque[Any] = deque()  # arrived, not yet received
        self.under_way = 0  # sent, not yet received
        self.free_at_s = 0.0
        self.bytes = self.messages = 0
        self.sender_waits: Send | None = None


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
        self._events: list[tuple[float, int, Any, Any]] = []  # later: time, order, a stage or a line, value
        self._ready: deque[tuple[int, Any]] = deque()  # now: stages that can go on, with their answers
        self._count = 0
        self._lines: dict[Channel, _Line] = {}
        self._inbound: defaultdict[int, list[_Line]] = defaultdict(list)  # of each stage, by first message
        self._blocked: dict[int, tuple[Any, float]] = {}  # stage -> what it waits for, since when

    def run(self) -> Trace:
        """Raises StageError if work fails, DeadlockError if no stage can go on."""
        self._ready.extend((stage, None) for stage in self.programs)
        ready, events = self._ready, self._events
        while ready or events:
            while ready:
                self._resume(*ready.popleft())
            if events:
                self.now, _, what, value = heapq.heappop(events)
                if isinstance(what, _Line):
                    self._arrive(what, value)
                else:
                    ready.append((what, value))
        if self._blocked:
            raise DeadlockError(
                "; ".join(waiting_for(k, request) for k, (request, _) in sorted(self._blocked.items()))
            )
        for channel, line in self._lines.items():
            self.trace.channel_bytes[channel], self.trace.channel_messages[channel] = (
                line.bytes,
                line.messages,
            )
        self.trace.makespan_s = self.now
        return self.trace

    def sent_by(self, stage: int) -> tuple[int, int]:
        """Bytes and messages that the stage has sent so far."""
        lines = [line for line in self._lines.values() if line.channel.source == stage]
        return sum(line.bytes for line in lines), sum(line.messages for line in lines)

    def _at(self, time: float, what: Any, value: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, what, value))

    def _line(self, channel: Channel) -> _Line:
        line = self._lines.get(channel)
        if line is None:
            line = self._lines[channel] = _Line(channel)
        return line

    def _resume(self, stage: int, value: Any) -> None:
        """Let the program run until it has to wait."""
        send = self.programs[stage].send
        if isinstance(value, RecvAny):  # a poll that was put off
            line = self._first_full(stage, value)
            value = None if line is None else (line.channel, self._pop(line))
        while True:
            grad_mode = torch.is_grad_enabled()
            try:
                request = send(value)
            except StopIteration:
                return
            if torch.is_grad_enabled() is not grad_mode:
                torch.set_grad_enabled(grad_mode)
                raise StageError(f"stage {stage} yielded inside torch.no_grad() or the like; close it before")
            value = None
            if isinstance(request, Send):
                line = self._line(request.channel)
                if line.capacity is not None and line.under_way >= line.capacity:
                    line.sender_waits = request
                    self._blocked[stage] = request, self.now
                    return
                self._post(line, request.value)
            elif isinstance(request, Recv):
                line = self._line(request.channel)
                if not line.queue:
                    self._blocked[stage] = request, self.now
                    return
                value = self._pop(line)
            elif isinstance(request, Compute):
                value = self._work(stage, request)
                seconds = self.cost(stage, request.kind)
                self.trace.spans.append(Span(stage, request.kind, self.now, self.now + seconds, request.tag))
                if seconds > 0:
                    self._at(self.now + seconds, stage, value)
                    return
            elif isinstance(request, RecvAny):
                found = self._first_full(stage, request)
                if found is not None:
                    value = found.channel, self._pop(found)
                elif request.wait:
                    self._blocked[stage] = request, self.now
                    return
                elif self._ready or (self._events and self._events[0][0] <= self.now):
                    self._at(self.now, stage, request)  # what arrives at this very moment counts as here
                    return
            elif self.on_done:
                self.on_done(stage, request.t)

    def _work(self, stage: int, request: Compute) -> Any:
        with self.around(stage, request.kind) if self.around else nullcontext():
            return do_work(stage, request)

    def _post(self, line: _Line, value: Any) -> None:
        size = 0
        if isinstance(value, (Tensor, list, tuple)):
            value = captured(value)
            size = payload_bytes(value)
            line.bytes += size
        if not line.messages:
            self._inbound[line.channel.target].append(line)
        line.messages += 1
        line.under_way += 1
        if self.link is None:
            self._arrive(line, value)
            return
        occupied_s, delay_s = self.link(line.channel, size)
        line.free_at_s = max(self.now, line.free_at_s) + occupied_s
        self._at(line.free_at_s + delay_s, line, value)

    def _arrive(self, line: _Line, value: Any) -> None:
        line.queue.append(value)
        target = line.channel.target
        waits = self._blocked.get(target)
        if waits is None:
            return
        request = waits[0]
        if type(request) is Recv:
            if request.channel == line.channel:
                self._wake(target, self._pop(line))
        elif type(request) is RecvAny and (not request.channels or line.channel in request.channels):
            self._wake(target, (line.channel, self._pop(line)))

    def _first_full(self, stage: int, request: RecvAny) -> _Line | None:
        lines = map(self._line, request.channels) if request.channels else self._inbound[stage]
        return next((line for line in lines if line.queue), None)

    def _pop(self, line: _Line) -> Any:
        value = line.queue.popleft()
        line.under_way -= 1
        if line.sender_waits is not None:
            request, line.sender_waits = line.sender_waits, None
            self._wake(line.channel.source, None)
            self._post(line, request.value)
        return value

    def _wake(self, stage: int, value: Any) -> None:
        _, since = self._blocked.pop(stage)
        if self.now > since:
            self.trace.spans.append(Span(stage, "wait", since, self.now))
        self._ready.append((stage, value))


def do_work(stage: int, request: Compute) -> Any:
    """The work's result. Raises StageError that names the stage and the work, unless it names them itself."""
    try:
        return request.work(*request.args)
    except StageError:
        raise
    except Exception as error:
        where = f"stage {stage}, {request.kind}" + (f" {request.tag}" if request.tag is not None else "")
        raise StageError(f"{where}: {type(error).__name__}: {error}") from error
