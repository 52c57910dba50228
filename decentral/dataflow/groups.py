"""Nodes that turn one message into many or many into one: along the edges of a graph, over the members of a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from decentral.dataflow.edges import InvariantError, Message, State
from decentral.dataflow.nodes import Node, pieces, total, whole


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
        emitted: list[Message] = []
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
            for member in members:
                self.group[member] = state
            emitted += zip(members, pieces(payload, [1] * len(members)), strict=True)
        self.outs[0].forward(emitted)

    def backward(self, out: int, messages: list[Message]) -> None:
        """Once all members have answered."""
        complete: list[Message] = []
        for state, payload in messages:
            group = self.group.pop(state)
            answers = self.answers[group]
            answers[state] = payload
            if len(answers) == len(self.order[group]):
                del self.answers[group]
                rows = [answers[member] for member in self.order.pop(group)]
                known = next((row for row in rows if row is not None), None)
                joined = None
                if known is not None:
                    joined = torch.cat([torch.zeros_like(known) if row is None else row for row in rows])
                complete.append((group, joined))
        if complete:
            self.ins[0].backward(complete)

    def held(self) -> int:
        """Unanswered ones."""
        return len(self.answers)
