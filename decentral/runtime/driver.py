"""What both drivers are: programs that take turns until they have to wait, and the messages that they wait for.

The clock and MPI say what work costs, how a message gets to its target, and what time it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch

from decentral.runtime.requests import (
    Channel,
    Compute,
    Program,
    Recv,
    RecvAny,
    Send,
    StageError,
    waiting_for,
)
from decentral.runtime.trace import Span, Trace, payload_bytes


class Sent(NamedTuple):
    """Bytes, messages, and the bytes of them that went to other ranks."""

    bytes: float
    messages: int
    away_bytes: int


class Line:
    """The state of one channel, as far as it is known here."""

    __slots__ = (
        "bytes",
        "channel",
        "free_at_s",
        "full_at",
        "messages",
        "queue",
        "seen",
        "sender_waits",
        "under_way",
    )

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.full_at = float("inf") if channel.capacity is None else channel.capacity
        self.queue: deque[Any] = deque()  # arrived, not yet received
        self.under_way = 0  # sent from here, not yet received
        self.free_at_s = 0.0  # of a simulated link
        self.bytes = self.messages = 0  # sent from here
        self.seen = False  # whether anything has arrived
        self.sender_waits: Send | None = None


class Driver(ABC):
    """Programs by the numbers of their stages. ``on_done(stage, t)`` is called when a stage has finished step t."""

    def __init__(
        self, programs: Mapping[int, Program], on_done: Callable[[int, int], None] | None, trace: Trace
    ) -> None:
        self.programs, self.on_done, self.trace = programs, on_done, trace
        self.ready: deque[tuple[int, Any]] = deque((stage, None) for stage in programs)  # and their answers
        self.blocked: dict[int, tuple[Any, float]] = {}  # stage -> what it waits for, since when
        self.granted = 0  # requests
        self._lines: dict[Channel, Line] = {}
        self._inbound: defaultdict[int, list[Line]] = defaultdict(list)  # of each stage, by first message

    @property
    @abstractmethod
    def now(self) -> float:
        """Seconds since the start."""

    @abstractmethod
    def compute(self, stage: int, request: Compute) -> tuple[bool, Any]:
        """Do the work; whether the stage goes on at once, and then with which answer."""

    @abstractmethod
    def carry(self, line: Line, value: Any, size: int) -> None:
        """Bring a message to its target: :meth:`arrive`, now or later."""

    @abstractmethod
    def poll_later(self, stage: int, request: RecvAny) -> bool:
        """Nothing is here for a stage that does not want to wait; whether to look again before it is told so."""

    def taken(self, line: Line) -> None:
        """The oldest message of the line was received here."""
        self.make_room(line)

    def done(self, stage: int, t: int) -> None:
        """The stage has finished step t."""
        if self.on_done:
            self.on_done(stage, t)

    def sent_by(self, stage: int, names: Collection[str] | None = None) -> Sent:
        """What the stage has sent so far on channels (of these names) that carry tensors: others only steer."""
        lines = [
            line
            for line in self._lines.values()
            if line.channel.source == stage and line.bytes and (names is None or line.channel.name in names)
        ]
        away = sum(line.bytes for line in lines if self.is_away(line.channel))
        return Sent(sum(line.bytes for line in lines), sum(line.messages for line in lines), away)

    def is_away(self, channel: Channel) -> bool:
        """Whether the channel leads to another rank."""
        del channel
        return False

    def line(self, channel: Channel) -> Line:
        """The channel's state."""
        line = self._lines.get(channel)
        if line is None:
            line = self._lines[channel] = Line(channel)
        return line

    def resume(self, stage: int, value: Any) -> None:
        """Let the program run until it has to wait."""
        send = self.programs[stage].send
        if isinstance(value, RecvAny):  # a poll that was put off
            value = self._first(self._full(stage, value))
        while True:
            grad_mode = torch.is_grad_enabled()
            try:
                request = send(value)
            except StopIteration:
                self.granted += 1
                return
            if torch.is_grad_enabled() is not grad_mode:
                torch.set_grad_enabled(grad_mode)
                raise StageError(f"stage {stage} yielded inside torch.no_grad() or the like; close it before")
            value = None
            if isinstance(request, Send):
                line = self.line(request.channel)
                if line.under_way >= line.full_at:
                    line.sender_waits = request
                    self.blocked[stage] = request, self.now
                    return
                self._post(line, request.value)
            elif isinstance(request, Recv):
                line = self.line(request.channel)
                if not line.queue:
                    self.blocked[stage] = request, self.now
                    return
                value = self._pop(line)
            elif isinstance(request, Compute):
                self.granted += 1
                goes_on, value = self.compute(stage, request)
                if not goes_on:
                    return
            elif isinstance(request, RecvAny):
                full = self._full(stage, request)
                if full is None and request.wait:
                    self.blocked[stage] = request, self.now
                    return
                if full is None and self.poll_later(stage, request):
                    return
                value = self._first(full)
            else:
                self.done(stage, request.t)
            self.granted += 1

    def arrive(self, line: Line, value: Any) -> None:
        """A message is at its target: it is queued, and its receiver woken if it waits for that."""
        line.queue.append(value)
        target = line.channel.target
        if not line.seen:
            line.seen = True
            self._inbound[target].append(line)
        waits = self.blocked.get(target)
        if waits is None:
            return
        request = waits[0]
        if type(request) is Recv:
            if request.channel == line.channel:
                self._wake(target, self._pop(line))
        elif type(request) is RecvAny and (not request.channels or line.channel in request.channels):
            self._wake(target, self._first(line))

    def make_room(self, line: Line) -> None:
        """A message that was sent from here was received: a sender that waited for room sends."""
        line.under_way -= 1
        if line.sender_waits is not None:
            request, line.sender_waits = line.sender_waits, None
            self._wake(line.channel.source, None)
            self._post(line, request.value)

    def waiting(self) -> list[tuple[int, str]]:
        """The stages here that wait, and in words for what."""
        return [(stage, waiting_for(stage, request)) for stage, (request, _) in sorted(self.blocked.items())]

    def count_traffic(self) -> None:
        """Enter in the trace what was sent from here."""
        for channel, line in self._lines.items():
            if line.messages:
                self.trace.channel_bytes[channel] = line.bytes
                self.trace.channel_messages[channel] = line.messages

    def _post(self, line: Line, value: Any) -> None:
        size = payload_bytes(value)
        line.bytes += size
        line.messages += 1
        line.under_way += 1
        self.carry(line, value, size)

    def _full(self, stage: int, request: RecvAny) -> Line | None:
        lines = map(self.line, request.channels) if request.channels else self._inbound[stage]
        return next((line for line in lines if line.queue), None)

    def _first(self, line: Line | None) -> tuple[Channel, Any] | None:
        return None if line is None else (line.channel, self._pop(line))

    def _pop(self, line: Line) -> Any:
        value = line.queue.popleft()
        self.taken(line)
        return value

    def _wake(self, stage: int, value: Any) -> None:
        _, since = self.blocked.pop(stage)
        if self.now > since:
            self.trace.add(Span(stage, "wait", since, self.now))
        self.ready.append((stage, value))
        self.granted += 1


def do_work(stage: int, request: Compute) -> Any:
    """The work's result. Raises StageError that names the stage and the work, unless it names them itself."""
    try:
        return request.work(*request.args)
    except StageError:
        raise
    except Exception as error:
        where = f"stage {stage}, {request.kind}" + (f" {request.tag}" if request.tag is not None else "")
        raise StageError(f"{where}: {type(error).__name__}: {error}") from error
