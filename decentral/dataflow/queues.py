"""Nodes whose messages wait: those that wait together are computed together."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import ClassVar, Self

from decentral.dataflow.edges import Message
from decentral.dataflow.nodes import Node

Since = tuple[int, int]
"""When a message came to its worker: after how many batches, and the how-manieth arrival it was."""


class Queue(deque[Message]):
    """Messages, the oldest first. ``now()``: the time of its worker; ``since``: when the oldest came."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Callable[[], Since] = lambda: (0, 0)
        self._came: deque[tuple[Since, int]] = deque()  # when messages came, and how many of these still wait
        self._counted = 0

    def __iadd__(self, messages: Iterable[Message]) -> Self:
        if not self:
            self._came.clear()
            self._counted = 0
        before = len(self)
        self.extend(messages)
        if many := len(self) - before:
            self._came.append((self.now(), many))
            self._counted += many
        return self

    @property
    def since(self) -> Since:
        """When the oldest message came, of a queue that has one."""
        gone = self._counted - len(self)
        while gone > 0:
            came, many = self._came.popleft()
            if many > gone:
                self._came.appendleft((came, many - gone))
            gone -= many
        self._counted = len(self)
        return self._came[0][0]


class Queued(Node):
    """A node whose messages wait in two queues until its worker calls :meth:`run_forward` or :meth:`run_backward`.

    ``wake(node)``: tells the worker that a message waits here. ``turns``: whether messages turn round here, so that
    they are as urgent as answers.
    """

    turns: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.answers = Queue(), Queue()
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
