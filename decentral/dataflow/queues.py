"""Nodes whose messages wait: those that wait together are computed together."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from decentral.dataflow.edges import Message
from decentral.dataflow.nodes import Node

Queue = deque[Message]


class Queued(Node):
    """A node whose messages wait in two queues until its worker calls :meth:`run_forward` or :meth:`run_backward`.

    ``wake()``: tells the worker that a message waits here. ``turns``: whether messages turn round here, so that they
    are as urgent as answers.
    """

    turns: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.waiting: Queue = deque()
        self.answers: Queue = deque()
        self.wake: Callable[[Queued], None] = lambda _: None

    def forward(self, port: int, messages: list[Message]) -> None:
        """Queued."""
        self.waiting += messages
        self.wake(self)

    def backward(self, out: int, messages: list[Message]) -> None:
        """Queued."""
        self.answers += messages
        self.wake(self)

    @abstractmethod
    def run_forward(self, most: int) -> None:
        """Compute the oldest messages, ``most`` of them at most, and emit."""

    @abstractmethod
    def run_backward(self, most: int) -> None:
        """Compute the oldest answers, ``most`` of them at most, and answer."""

    def held(self) -> int:
        """Messages in the queues."""
        return len(self.waiting) + len(self.answers)


def taken(queue: Queue, most: int) -> list[Message]:
    """The oldest messages."""
    if len(queue) <= most:
        batch = list(queue)
        queue.clear()
        return batch
    return [queue.popleft() for _ in range(most)]
