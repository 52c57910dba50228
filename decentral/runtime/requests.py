"""What a stage program may ask for. It yields a request, and the driver sends the answer back into it.

A program does not know what time is, nor who carries its messages: the virtual clock and MPI grant the same requests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


class StageNumber(int):
    """Drivers number stages through, worker after worker; as text this one is "2 of worker 1".

    Stages of a single worker's network are plain integers.
    """

    worker: int
    stage: int
    stages: int

    def __new__(cls, worker: int, stage: int, stages: int) -> Self:
        """Stage ``stage`` of worker ``worker``, each of which has ``stages``."""
        self = super().__new__(cls, worker * stages + stage)
        self.worker, self.stage, self.stages = worker, stage, stages
        return self

    def __str__(self) -> str:
        return f"{self.stage} of worker {self.worker}"

    def __reduce__(self) -> Any:
        return StageNumber, (self.worker, self.stage, self.stages)


class Channel(NamedTuple):
    """Messages one way between two stages, first in, first out.

    ``source``, ``target``: their numbers. ``capacity``: messages that may be under way or waiting; a sender waits
    while there are so many. None: no limit.
    """

    source: int
    target: int
    name: str
    capacity: int | None = None

    def __str__(self) -> str:
        return f"{self.name!r} from stage {self.source} to stage {self.target}"


@dataclass(slots=True)
class Send:
    """Put ``value`` into the channel: a tensor, a list or tuple of them, or any small value.

    It is captured: later changes do not travel. A NamedTuple arrives as a tuple.
    Answer: None, at once, or as soon as the channel has room.
    """

    channel: Channel
    value: Any


@dataclass(slots=True)
class Recv:
    """The next value of the channel. The program waits for it."""

    channel: Channel


@dataclass(slots=True)
class RecvAny:
    """(channel, value) of the first of the channels, in their order, that holds one; no channels: any to this stage.

    ``wait = False``: None if there is nothing.
    """

    channels: tuple[Channel, ...] = ()
    wait: bool = True


class Compute:
    """Do ``work(*args)``; answer: what it returned. ``kind`` says what it is, for clocks, tables and pictures:
    "forward", "backward", "update", or another word. ``tag`` numbers it in pictures: a step, or (step, micro-batch).
    """

    __slots__ = ("args", "kind", "tag", "work")

    def __init__(self, kind: str, work: Callable[..., Any], *args: Any, tag: Any = None) -> None:
        self.kind, self.work, self.args, self.tag = kind, work, args, tag


@dataclass(slots=True)
class Done:
    """Step ``t`` = 0, 1, ... is finished on this stage. Answer: None, after what is measured here has been taken."""

    t: int


Request = Send | Recv | RecvAny | Compute | Done
Program = Generator[Request, Any, None]
"""A stage program that has begun."""


class StageError(RuntimeError):
    """A stage's own work failed; the message names the stage and what it did."""


class NonFiniteError(StageError):
    """A stage's activations overflowed: the run has diverged."""


class DeadlockError(RuntimeError):
    """No stage can go on; the message says who waits for whom."""


def waiting_for(stage: int, request: Any) -> str:
    """What a blocked stage waits for, in words."""
    if isinstance(request, Send):
        return f"stage {stage} waits to send {request.channel}, which holds {request.channel.capacity}"
    if isinstance(request, Recv):
        return f"stage {stage} waits to receive {request.channel}"
    names = ", ".join(map(str, request.channels)) or "anything"
    return f"stage {stage} waits to receive any of {names}"
