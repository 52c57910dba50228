"""Nodes that steer messages by their state: they copy, join and route payloads and look into none.

They are called inline, so messages go through any number of them in one go until they are queued at a transform.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from typing import Any

import torch

from decentral.dataflow.edges import Edge, InvariantError, Message, State, state_of
from decentral.dataflow.payloads import pieces, side_by_side, total, whole


class Node(ABC):
    """A node with ``inputs`` ports to receive on and ``outputs`` ports to emit from.

    ``forward(port, messages)`` takes messages and emits any number; ``backward(out, messages)`` takes the answers to
    some that were emitted, and answers those that were received, each once and with its own state.
    """

    inputs: int = 1
    outputs: int = 1

    def __init__(self) -> None:
        self.name = type(self).__name__.lower()
        self.ins: list[Edge[Node]] = []
        self.outs: list[Edge[Node]] = []

    @abstractmethod
    def forward(self, port: int, messages: list[Message]) -> None:
        """Messages for input ``port``."""

    @abstractmethod
    def backward(self, out: int, messages: list[Message]) -> None:
        """The answers to messages that output ``out`` emitted."""

    def held(self) -> int:
        """Messages that this node remembers; 0 after every drain."""
        return 0

    def port_name(self, out: int) -> str:
        """The node's name, with the port's number where it has several."""
        return f"{self.name}[{out}]" if self.outputs > 1 else self.name


class Cond(Node):
    """Routes each message to the output ``port_of(state)``. Its answer goes back to the only input."""

    def __init__(self, port_of: Callable[[State], int], outputs: int = 2) -> None:
        super().__init__()
        self.port_of, self.outputs = port_of, outputs

    def forward(self, port: int, messages: list[Message]) -> None:
        """Each to one of the outputs."""
        routed: list[list[Message]] = [[] for _ in self.outs]
        ports = list(map(self.port_of, map(state_of, messages)))
        if min(ports) < 0 or max(ports) >= self.outputs:
            state, port = next(
                (m[0], p) for m, p in zip(messages, ports, strict=True) if not 0 <= p < self.outputs
            )
            raise InvariantError(f"{self.name} has {self.outputs} outputs; port_of({state}) is {port}")
        for port, message in zip(ports, messages, strict=True):
            routed[port].append(message)
        for edge, part in zip(self.outs, routed, strict=True):
            if part:
                edge.forward(part)

    def backward(self, out: int, messages: list[Message]) -> None:
        """To the input."""
        self.ins[0].backward(messages)


class Phi(Node):
    """Joins several inputs into one output, and remembers for each state where it came from. Loops go through one."""

    def __init__(self, inputs: int = 2) -> None:
        super().__init__()
        self.inputs = inputs
        self.origin: dict[State, int] = {}

    def forward(self, port: int, messages: list[Message]) -> None:
        """To the output."""
        self.origin.update(zip(map(state_of, messages), repeat(port), strict=False))
        self.outs[0].forward(messages)

    def backward(self, out: int, messages: list[Message]) -> None:
        """Each to the input that it came from."""
        parts: list[list[Message]] = [[] for _ in self.ins]
        origin = self.origin
        for message in messages:
            parts[origin.pop(message[0])].append(message)
        for edge, part in zip(self.ins, parts, strict=True):
            if part:
                edge.backward(part)

    def held(self) -> int:
        """States on their way."""
        return len(self.origin)


class StateUpdate(Node):
    """state' = update(state) forward, state = inverse(state') backward; the payload stays."""

    def __init__(self, update: Callable[[State], State], inverse: Callable[[State], State]) -> None:
        super().__init__()
        self.update, self.inverse = update, inverse

    def forward(self, port: int, messages: list[Message]) -> None:
        """Under the new states."""
        states, payloads = zip(*messages, strict=True)
        after = list(map(self.update, states))
        back = tuple(map(self.inverse, after))
        if back != states:
            state, new, wrong = next(x for x in zip(states, after, back, strict=True) if x[0] != x[2])
            raise InvariantError(
                f"{self.name} maps state {state} to {new}, and that back to {wrong}; give the inverse"
            )
        self.outs[0].forward(list(zip(after, payloads, strict=True)))

    def backward(self, out: int, messages: list[Message]) -> None:
        """Under the old states."""
        states, payloads = zip(*messages, strict=True)
        self.ins[0].backward(list(zip(map(self.inverse, states), payloads, strict=True)))


class Bcast(Node):
    """Copies each message to all its outputs. The answer is the sum of all answers, by ascending output."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.outputs = outputs
        self.answers: dict[State, dict[int, Any]] = {}

    def forward(self, port: int, messages: list[Message]) -> None:
        """To all outputs."""
        for state, _ in messages:
            self.answers[state] = {}
        for edge in self.outs:
            edge.forward(messages)

    def backward(self, out: int, messages: list[Message]) -> None:
        """Once all have answered."""
        complete: list[Message] = []
        for state, payload in messages:
            answers = self.answers[state]
            answers[out] = payload
            if len(answers) == self.outputs:
                del self.answers[state]
                complete.append((state, self.joint([answers[i] for i in range(self.outputs)])))
        if complete:
            self.ins[0].backward(complete)

    def joint(self, answers: list[Any]) -> Any:
        """The answer, from those of all outputs."""
        return total(answers)

    def held(self) -> int:
        """States without all their answers."""
        return len(self.answers)


class Concat(Node):
    """Puts the payloads of all its inputs side by side, those of one ``key_of(state)``, which is the new state.

    Nothing is copied: the payload is the tuple of the parts, and a transform joins a whole batch at once. The answer
    may be such a tuple or one tensor.
    """

    def __init__(self, inputs: int = 2, key_of: Callable[[State], State] | None = None) -> None:
        super().__init__()
        if inputs < 2:
            raise ValueError(f"a Concat of {inputs} has nothing to put side by side; use 2 inputs or more")
        self.inputs, self.key_of = inputs, key_of
        self.parts: dict[State, list[Any]] = {}  # of messages, None where one is to come
        self.sources: dict[State, list[Message]] = {}

    def forward(self, port: int, messages: list[Message]) -> None:
        """Once all inputs are here."""
        complete: list[Message] = []
        key_of, waiting = self.key_of, self.parts
        for message in messages:
            key = message[0] if key_of is None else key_of(message[0])
            parts = waiting.get(key)
            if parts is None:
                parts = waiting[key] = [None] * self.inputs
            if parts[port] is not None:
                raise InvariantError(f"{self.name} got a second message for its input {port} of state {key}")
            parts[port] = message
            if None not in parts:
                del waiting[key]
                self.sources[key] = parts
                complete.append((key, side_by_side([payload for _, payload in parts])))
        if complete:
            self.outs[0].forward(complete)

    def backward(self, out: int, messages: list[Message]) -> None:
        """To each input its part."""
        answers = []
        for key, payload in messages:
            given = self.sources.pop(key)
            flat = type(payload) is tuple and len(payload) == self.inputs
            answers.append((given, payload if flat else self._apart(payload, [part for _, part in given])))
        for i, edge in enumerate(self.ins):
            edge.backward([(given[i][0], parts[i]) for given, parts in answers])

    def _apart(self, payload: Any, given: Sequence[Any]) -> Sequence[Any]:
        """A gradient's parts for each input."""
        if payload is None:
            return [None] * self.inputs
        parts: Sequence[Any] = payload
        if type(payload) is not tuple:
            parts = pieces(payload, [x.shape[1] for x in side_by_side(given)], 1)
        left = iter(parts)
        return [tuple(islice(left, len(part))) if type(part) is tuple else next(left) for part in given]

    def held(self) -> int:
        """Unfinished and unanswered ones."""
        return len(self.parts) + len(self.sources)


class Split(Bcast):
    """Cuts the features of each message into pieces of ``widths``, one for each output."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(len(widths))
        self.widths = list(widths)

    def forward(self, port: int, messages: list[Message]) -> None:
        """A piece to each output."""
        for state, _ in messages:
            self.answers[state] = {}
        cut = [pieces(whole(payload), self.widths, 1) for _, payload in messages]
        for i, edge in enumerate(self.outs):
            edge.forward([(state, part[i]) for (state, _), part in zip(messages, cut, strict=True)])

    def joint(self, answers: list[Any]) -> Any:
        """The pieces' gradients side by side; 0 where none is wanted, None where no piece wants one."""
        known = next((g for g in answers if g is not None), None)
        if known is None:
            return None
        each = [
            known.new_zeros(len(known), width) if g is None else g
            for g, width in zip(answers, self.widths, strict=True)
        ]
        return torch.cat(each, dim=1)
