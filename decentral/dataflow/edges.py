"""Edges carry messages between nodes, and hold the invariant: one backward message answers each forward message.

A message is a *state* and a *payload*. The state is a tuple of integers whose first one is the key of the instance; it
says where in the instance's structure the message is. The payload is a tensor (rows, features), or a tuple of such,
whose features belong side by side. A backward message has the state of the forward message that it answers, and as
payload the gradient, or None where none is wanted. Messages that were computed together travel together, as a list.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

State = tuple[int, ...]
Message = tuple[State, Any]
state_of: Callable[[Message], State] = itemgetter(0)


class InvariantError(RuntimeError):
    """A message was answered twice, or never asked for; the text names edge and state."""


class End(Protocol):
    """A node, as an edge knows it."""

    name: str

    def forward(self, port: int, messages: list[Message]) -> None:
        """Messages for input ``port``."""

    def backward(self, out: int, messages: list[Message]) -> None:
        """The answers to messages that output ``out`` emitted."""

    def port_name(self, out: int) -> str:
        """The node's name, with the port's number where it has several."""


N = TypeVar("N", bound=End)


class Edge(Generic[N]):
    """From port ``out`` of ``source`` to port ``port`` of ``target``. ``waiting``: states that have no answer yet."""

    __slots__ = ("out", "port", "source", "target", "waiting")

    def __init__(self, source: N, out: int, target: N, port: int) -> None:
        self.source, self.out, self.target, self.port = source, out, target, port
        self.waiting: set[State] = set()

    def forward(self, messages: list[Message]) -> None:
        """The source emits messages."""
        self.ask(messages)
        self.target.forward(self.port, messages)

    def backward(self, messages: list[Message]) -> None:
        """The target answers them."""
        self.answer(messages)
        self.source.backward(self.out, messages)

    def ask(self, messages: list[Message]) -> None:
        """From now on answers of these states are waited for."""
        waiting, before = self.waiting, len(self.waiting)
        waiting.update(map(state_of, messages))
        if len(waiting) - before != len(messages):
            raise InvariantError(
                f"{self} carries a second message of a state before the first is answered, among {_some(messages)}"
            )

    def answer(self, messages: list[Message]) -> None:
        """Answers of these states are no more waited for."""
        waiting, before = self.waiting, len(self.waiting)
        waiting.difference_update(map(state_of, messages))
        if before - len(waiting) != len(messages):
            raise InvariantError(
                f"{self} was answered with a state it does not wait for, among {_some(messages)}"
            )

    def __str__(self) -> str:
        return f"the edge from {self.source.port_name(self.out)} to {self.target.name}"


def _some(messages: list[Message]) -> str:
    return ", ".join(str(state) for state, _ in messages[:5])
