"""Nodes that turn one message into many or many into one: along the edges of a graph, over the members of a group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from decentral.dataflow.edges import InvariantError, Message, State
from decentral.dataflow.nodes import Node
from decentral.dataflow.payloads import pieces, total, whole


class Replicate(Node):
    """Emits each message once for every state of ``targets(state)``, as along a graph's edges; sums the answers."""

    def __init__(self, targets: Callable[[State], Sequence[State]]) -> None:
        super().__init__()
        self.targets = targets
        self.source: dict[State, State] = {}  # of each emitted state
        self.answers: dict[State, dict[State, Any]] = {}
        self.order: dict[State, Sequence[State]] = {}

    def forward(self, port: int, messages: list[Message]) -> None:
        """To every target; a message without any is answered at once: nothing depends on it."""
        emitted: list[Message] = []
        alone: list[Message] = []
        for state, payload in messages:
            targets = self.targets(state)
            if not targets:
                alone.append((state, None))
                continue
            self.answers[state], self.order[state] = {}, targets
            for target in targets:
                if target in self.source:
                    raise InvariantError(
                        f"{self.name} emits state {target} twice; give every edge a state of its own"
                    )
                self.source[target] = state
                emitted.append((target, payload))
        if alone:
            self.ins[0].backward(alone)
        if emitted:
            self.outs[0].forward(emitted)

    def backward(self, out: int, messages: list[Message]) -> None:
        """Once all targets have answered; their sum in the order of the targets."""
        complete: list[Message] = []
        for state, payload in messages:
            source = self.source.pop(state)
            answers = self.answers[source]
            answers[state] = payload
            if len(answers) == len(self.order[source]):
                del self.answers[source]
                complete.append((source, total([answers[target] for target in self.order.pop(source)])))
        if complete:
            self.ins[0].backward(complete)

    def held(self) -> int:
        """Unanswered ones."""
        return len(self.answers)


class Group(Node):
    """Collects the ``size_of(group)`` messages of one ``group_of(state)`` into one, rows by ascending state.

    ``summed``: the rows are added up instead, as where the edges of a graph end.
    """

    def __init__(
        self, group_of: Callable[[State], State], size_of: Callable[[State], int], summed: bool = False
    ) -> None:
        super().__init__()
        self.group_of, self.size_of, self.summed = group_of, size_of, summed
        self.parts: dict[State, dict[State, Any]] = {}
        self.members: dict[State, list[tuple[State, int]]] = {}  # and how many rows

    def forward(self, port: int, messages: list[Message]) -> None:
        """Once a group is full."""
        complete: list[Message] = []
        for state, payload in messages:
            group = self.group_of(state)
            parts = self.parts.setdefault(group, {})
            parts[state] = whole(payload)
            if len(parts) == self.size_of(group):
                del self.parts[group]
                states = sorted(parts)
                rows = [parts[s] for s in states]
                self.members[group] = [(s, len(r)) for s, r in zip(states, rows, strict=True)]
                complete.append((group, total(rows) if self.summed else torch.cat(rows)))
        if complete:
            self.outs[0].forward(complete)

    def backward(self, out: int, messages: list[Message]) -> None:
        """To each member its rows, or to each the whole where they were summed."""
        answers: list[Message] = []
        for group, payload in messages:
            members = self.members.pop(group)
            if payload is None or self.summed:
                answers += [(member, payload) for member, _ in members]
            else:
                gradients = pieces(payload, [rows for _, rows in members])
                answers += [(member, g) for (member, _), g in zip(members, gradients, strict=True)]
        self.ins[0].backward(answers)

    def held(self) -> int:
        """Unfinished and unanswered ones."""
        return len(self.parts) + len(self.members)


class Ungroup(Node):
    """Emits each row of a message by itself, under the states ``members(state)``; joins the answers again."""

    def __init__(self, members: Callable[[State], Sequence[State]]) -> None:
        super().__init__()
        self.members = members
        self.group: dict[State, State] = {}
        self.order: dict[State, Sequence[State]] = {}
        self.answers: dict[State, dict[State, Any]] = {}

    def forward(self, port: int, messages: list[Message]) -> None:
        """Row by row."""
        emitted: list[State] = []
        payloads: list[Tensor] = []
        for state, given in messages:
            members, payload = self.members(state), whole(given)
            if len(members) != len(payload):
                raise InvariantError(
                    f"{self.name} has {len(payload)} rows for {len(members)} members of state {state}"
                )
            if not members:
                self.ins[0].backward([(state, None)])
                continue
            self.answers[state], self.order[state] = {}, members
            self.group.update(zip(members, repeat(state), strict=False))
            emitted += members
            payloads.append(payload)
        if emitted:
            rows = pieces(payloads[0] if len(payloads) == 1 else torch.cat(payloads), [1] * len(emitted))
            self.outs[0].forward(list(zip(emitted, rows, strict=True)))

    def backward(self, out: int, messages: list[Message]) -> None:
        """Once all members have answered."""
        complete: dict[State, list[Tensor]] = {}
        unwanted: list[Message] = []
        for state, payload in messages:
            group = self.group.pop(state)
            answers = self.answers[group]
            answers[state] = payload
            if len(answers) == len(self.order[group]):
                del self.answers[group]
                rows = _filled([answers[member] for member in self.order.pop(group)])
                if rows:
                    complete[group] = rows
                else:
                    unwanted.append((group, None))
        if complete:
            gradients = pieces(torch.cat(list(chain(*complete.values()))), list(map(len, complete.values())))
            self.ins[0].backward([*zip(complete, gradients, strict=True), *unwanted])
        elif unwanted:
            self.ins[0].backward(unwanted)

    def held(self) -> int:
        """Unanswered ones."""
        return len(self.answers)


class Row(Node):
    """Turns a column (n, 1), n = rows_of(state), into a row (1, width); -inf beyond n is what a softmax leaves out.

    So graphs that differ in size can be computed together.
    """

    def __init__(self, width: int, rows_of: Callable[[State], int]) -> None:
        super().__init__()
        self.width, self.rows_of = width, rows_of

    def forward(self, port: int, messages: list[Message]) -> None:
        """As rows."""
        columns = [(state, payload.T, self.width - len(payload)) for state, payload in messages]
        self.outs[0].forward([(state, pad(row, (0, more), value=-math.inf)) for state, row, more in columns])

    def backward(self, out: int, messages: list[Message]) -> None:
        """As columns."""
        rows_of = self.rows_of
        self.ins[0].backward([(s, None if row is None else row[:, : rows_of(s)].T) for s, row in messages])


def _filled(rows: list[Any]) -> list[Tensor]:
    """Zeros for rows that nobody wants, where others are wanted; else no rows."""
    if type(None) not in map(type, rows):
        return rows
    known = next((row for row in rows if row is not None), None)
    return [] if known is None else [torch.zeros_like(known) if row is None else row for row in rows]
