"""A worker hosts nodes: its scheduler is the program that a driver runs.

It always takes the longest queue of answers, else the longest queue of messages: backward first bounds what is kept and
how stale gradients are, and the longest queue makes the largest batch. What goes to nodes of other workers is collected
while one node works and sent as one message for each worker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from decentral.dataflow.edges import Edge, Message
from decentral.dataflow.graph import Network
from decentral.dataflow.nodes import Node
from decentral.dataflow.payloads import rows_of
from decentral.dataflow.queues import Queued
from decentral.runtime.requests import Channel, Compute, Program, Send

MESSAGES = "messages"
Mail = dict[tuple[int, bool, int, int], list[Message]]
"""(number of the edge, whether forward, parts of a payload, length of a state) -> messages."""


class CrossEdge(Edge[Node]):
    """An edge between nodes of two workers: what one end gives it is put into the mail to the other end's worker."""

    __slots__ = ("mail", "number")

    def __init__(self, edge: Edge[Node], number: int, mail: Mail) -> None:
        super().__init__(edge.source, edge.out, edge.target, edge.port)
        self.number, self.mail = number, mail

    def forward(self, messages: list[Message]) -> None:
        """See :class:`Edge`; on the worker of the source."""
        self.ask(messages)
        self._post(True, messages)

    def backward(self, messages: list[Message]) -> None:
        """See :class:`Edge`; on the worker of the target."""
        self._post(False, messages)

    def deliver(self, messages: list[Message], forward: bool) -> None:
        """What came from the other worker."""
        if forward:
            self.target.forward(self.port, messages)
        else:
            super().backward(messages)

    def _post(self, forward: bool, messages: list[Message]) -> None:
        for message in messages:
            state, payload = message
            self.mail[self.number, forward, parts_of(payload), len(state)].append(message)


class Worker:
    """Worker ``number``: the nodes that ``place`` (name of a node -> worker) gives it, in its own copy of the network.

    ``most``: messages that are computed together, at most; 1 is without batching.
    """

    def __init__(self, number: int, network: Network, place: Mapping[str, int], most: int = 1 << 30) -> None:
        self.number, self.network, self.most = number, network, most
        self.nodes = {name: node for name, node in network.nodes.items() if place[name] == number}
        self.ready: dict[Queued, None] = {}  # nodes with messages, the longest waiting first
        self.doing = ("", "", 0)  # node, direction and messages of the last batch
        self.on_drained: Callable[[int], None] = lambda _: None  # called after phase n, nothing is under way
        for node in self.nodes.values():
            if isinstance(node, Queued):
                node.wake = self._wake
        self.mail: defaultdict[int, Mail] = defaultdict(lambda: defaultdict(list))
        self.crossing: dict[int, CrossEdge] = {}
        for i, edge in enumerate(network.edges):
            ends = place[edge.source.name], place[edge.target.name]
            if ends[0] != ends[1] and number in ends:
                other = ends[1] if number == ends[0] else ends[0]
                cross = CrossEdge(edge, i, self.mail[other])
                edge.source.outs[edge.out] = edge.target.ins[edge.port] = cross
                self.crossing[i] = cross

    def _wake(self, node: Queued) -> None:
        self.ready[node] = None

    def work(self) -> Program:
        """One batch of the node that has most waiting, answers first; and what it sends."""
        node = max(self.ready, key=_urgent)
        if node.answers:
            self.doing = node.name, "backward", min(self.most, len(node.answers))
            yield Compute("backward", node.run_backward, self.most, tag=node.name)
        else:
            if not _urgent(node):
                node = max(self.ready, key=_messages)
            self.doing = node.name, "forward", min(self.most, len(node.waiting))
            yield Compute("forward", node.run_forward, self.most, tag=node.name)
        if not node.answers and not node.waiting:
            self.ready.pop(node, None)
        yield from self.flush()

    def flush(self) -> Program:
        """Send what nodes of other workers have to get."""
        for other, mail in self.mail.items():
            if mail:
                packed = [pack(*what[:3], messages) for what, messages in mail.items()]
                mail.clear()
                yield Send(Channel(self.number, other, MESSAGES), packed)

    def deliver(self, value: Any) -> None:
        """What another worker has sent goes to its nodes."""
        for part in value:
            number, forward, messages = unpack(part)
            self.crossing[number].deliver(messages, forward)


def _urgent(node: Queued) -> int:
    return len(node.waiting if node.turns else node.answers)


def _messages(node: Queued) -> int:
    return len(node.waiting)


def parts_of(payload: Any) -> int:
    """How many tensors a payload is, side by side: 0 for None."""
    return 0 if payload is None else len(payload) if type(payload) is tuple else 1


def pack(number: int, forward: bool, parts: int, messages: list[Message]) -> Any:
    """Messages of one edge, alike in form, as few tensors: ((edge, whether forward, parts), states, rows, parts...)."""
    what, states = (number, forward, parts), torch.tensor([state for state, _ in messages])
    if parts == 0:
        return what, states
    payloads = [payload for _, payload in messages]
    sizes = torch.tensor([rows_of(payload) for payload in payloads])
    columns = [payloads] if parts == 1 else zip(*payloads, strict=True)
    return what, states, sizes, *(torch.cat(column) for column in columns)


def unpack(packed: Any) -> tuple[int, bool, list[Message]]:
    """What :func:`pack` was given."""
    (number, forward, parts), states, *more = packed
    keys = map(tuple, states.tolist())
    if parts == 0:
        return number, forward, [(key, None) for key in keys]
    sizes, *columns = more
    payloads = [column.split(sizes.tolist()) for column in columns]
    whole = payloads[0] if parts == 1 else list(zip(*payloads, strict=True))
    return number, forward, list(zip(keys, whole, strict=True))
