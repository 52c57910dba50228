"""A worker hosts nodes: its scheduler is the program that a driver runs.

It takes the longest queue of answers, else the longest queue of messages: backward first bounds what is kept and how
stale gradients are, and the longest queue makes the largest batch. Of queues as long as each other it takes the one
whose oldest message has waited longest, and before longer ones a queue that has waited for 8 batches, so that nodes
which fill their own queues do not keep others waiting. What goes to nodes of other workers is collected
while one node works and sent as one message for each worker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch

from decentral.dataflow.edges import Edge, Message
from decentral.dataflow.graph import Network
from decentral.dataflow.nodes import Node
from decentral.dataflow.payloads import rows_of
from decentral.dataflow.queues import Queue, Queued, Since
from decentral.runtime.requests import Channel, Compute, Program, Send

MESSAGES = "messages"
_PATIENCE = 8  # batches that a message waits for longer queues
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
        self.ready: dict[Queued, None] = {}  # nodes with messages
        self.batches = 0  # begun
        self._arrivals = count()
        self.doing = ("", "", 0)  # node, direction and messages of the last batch
        self.on_drained: Callable[[int], None] = lambda _: None  # called after phase n, nothing is under way
        for node in self.nodes.values():
            if isinstance(node, Queued):
                node.wake = self._wake
                node.waiting.now = node.answers.now = self._now
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

    def _now(self) -> Since:
        return self.batches, next(self._arrivals)

    def _next(self, queue_of: Callable[[Queued], Queue]) -> tuple[Queued, Queue]:
        """The node whose queue is next, and that queue; any node and an empty queue where all are empty."""
        queues = [(queue, node) for node in self.ready if (queue := queue_of(node))]
        if not queues:
            node = next(iter(self.ready))
            return node, queue_of(node)
        oldest, first = min(queues, key=lambda each: each[0].since)
        if self.batches - oldest.since[0] >= _PATIENCE:
            return first, oldest
        longest, node = min(queues, key=lambda each: (-min(self.most, len(each[0])), each[0].since))
        return node, longest

    def work(self) -> Program:
        """One batch of the node whose turn it is, answers first; and what it sends."""
        self.batches += 1
        node, urgent = self._next(_urgent)
        if node.answers:
            self.doing = node.name, "backward", min(self.most, len(node.answers))
            yield Compute("backward", node.run_backward, self.most, tag=node.name)
        else:
            if not urgent:
                node, _ = self._next(_messages)
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


def _urgent(node: Queued) -> Queue:
    return node.waiting if node.turns else node.answers


def _messages(node: Queued) -> Queue:
    return node.waiting


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
