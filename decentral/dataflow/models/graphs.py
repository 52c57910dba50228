"""A gated graph network: messages along the edges of an instance's graph, and a choice among its nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decentral.dataflow.ends import Emission, Input, Loss
from decentral.dataflow.graph import Network
from decentral.dataflow.groups import Group, Replicate, Row
from decentral.dataflow.nodes import Bcast, Concat, Cond, Phi, StateUpdate
from decentral.dataflow.replicas import Make, add_replicated
from decentral.dataflow.transforms import Linear
from decentral.errors import UserError
from decentral.problems.capabilities import BatchSize
from decentral.problems.data import load_deductions
from decentral.problems.data.babi import Deduction, Deductions
from decentral.problems.instances import BasicDeduction
from decentral.problems.models.initialise import initialise
from topologies.wording import shown

# by type, then by type against the edges
EDGE_MAPS = ("is_a", "has_fear", "is_a_back", "has_fear_back")


class GatedGraph:
    """States h_v of a graph's nodes, changed ``steps`` times by what comes along all edges (arXiv 1511.05493):

        h_v = [1 if v is the start else 0, 0, ..., 0],    a_v = sum of W_type h_u + b_type over edges u -> v
        h_v = GRU(a_v, h_v),    softmax over the nodes of u h_v

    Every edge of a question is there in both directions, with types of their own. An instance is a question; key k is
    question k of the training and then of the test part. Its loss is -log of the answer's probability, one row.

    ``width``: of h. ``modules``: is_a, has_fear, is_a_back, has_fear_back, gru, score. A step costs about 4 width^2
    FLOPs an edge of the question and 12 width^2 a node forward. Raises UserError for a width or
    a number of steps below one.
    """

    def __init__(
        self,
        data: Deductions,
        width: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        steps: int = 2,
    ) -> None:
        if min(width, steps) < 1:
            raise UserError(f"width = {width} and steps = {steps} must be at least 1")
        self.graphs = [Graph(question, device) for question in data.train + data.test]
        self.train = range(len(data.train))
        self.validation = range(len(data.train), len(self.graphs))
        self.steps, self.most_nodes = steps, max((graph.nodes for graph in self.graphs), default=0)
        self.start = torch.eye(1, width, dtype=dtype, device=device)
        self.other = torch.zeros_like(self.start)

        def modules() -> nn.ModuleDict:
            maps = {name: nn.Linear(width, width) for name in EDGE_MAPS}
            return nn.ModuleDict({**maps, "gru": GRU(width), "score": nn.Linear(width, 1, bias=False)})

        self.modules = cast(nn.ModuleDict, initialise(modules, seed).to(device, dtype))

    def network(self, make: Make, replicas: int = 1) -> Network:
        """A loop with states (key, node, step), within it (key, edge, step); ``replicas`` of the GRU."""
        net, graphs = Network(), self.graphs
        states = net.add("states", Phi(), net.add("nodes", Input(self._emit)))
        last = net.add("last?", Cond(lambda s: s[2] == self.steps), states)
        own = net.add("own state", Bcast(), (last, 0))
        edges = Replicate(lambda s: [(s[0], edge, s[2]) for edge in graphs[s[0]].leaving[s[1]]])
        kind = Cond(lambda s: graphs[s[0]].edges[s[1]][1], len(EDGE_MAPS))
        kind = net.add("type?", kind, net.add("edges", edges, (own, 0)))
        maps = [net.add(name, make(name, Linear), (kind, i)) for i, name in enumerate(EDGE_MAPS)]
        sums = Group(
            lambda s: (s[0], graphs[s[0]].edges[s[1]][2], s[2]),
            lambda s: len(graphs[s[0]].leaving[s[1]]),  # as many arrive
            summed=True,
        )
        sums = net.add("sums", sums, net.add("messages", Phi(len(maps)), *maps))
        gru = add_replicated(net, "gru", make, net.add("sum and state", Concat(), sums, (own, 1)), replicas)
        following = StateUpdate(lambda s: (s[0], s[1], s[2] + 1), lambda s: (s[0], s[1], s[2] - 1))
        net.connect(net.add("next", following, gru), states, 1)
        score = net.add("score", make("score", Linear), (last, 1))
        scores = net.add("scores", Group(lambda s: s[:1], lambda s: graphs[s[0]].nodes), score)
        row = net.add("row", Row(self.most_nodes, lambda s: graphs[s[0]].nodes), scores)
        loss = net.add("loss", Loss(lambda s: graphs[s[0]].answer), row)
        loss.learns = lambda key: key in self.train
        net.check()
        return net

    def evaluate(self, keys: Iterable[int]) -> tuple[Tensor, int, int]:
        """(mean of the instances' losses, right rows, rows), graph by graph, nodes at once; for at least one key."""
        *maps, gru, score = (self.modules[name] for name in (*EDGE_MAPS, "gru", "score"))
        losses, right = [], 0
        for key in keys:
            graph, h = self.graphs[key], torch.cat([payload for _, _, payload in self._emit(key)])
            for _ in range(self.steps):
                a = sum(A.to(h) @ f(h) for A, f in zip(graph.adjacency, maps, strict=True))
                h = gru(torch.cat([a, h], 1))
            logits = score(h).T
            losses.append(cross_entropy(logits, graph.answer))
            right += int(logits.argmax(1) == graph.answer)
        return torch.stack(losses).mean(), right, len(losses)

    def _emit(self, key: int) -> list[Emission]:
        graph = self.graphs[key]
        return [(0, (key, v, 0), self.start if v == graph.start else self.other) for v in range(graph.nodes)]


def of(
    problem: BasicDeduction, batch_size: BatchSize, seed: int, dtype: torch.dtype, device: torch.device
) -> GatedGraph:
    """The model of such a problem, with its instances."""
    del batch_size
    stories = load_deductions(problem.stories, problem.data_root or None)
    return GatedGraph(stories, problem.width, seed, dtype, device, steps=problem.steps)


class Graph:
    """A question's edges (source, type, target), then the same back; ``leaving``: their numbers by source.

    ``adjacency`` (types, nodes, nodes): edges of a type from the column's node to the row's.
    Raises UserError for a node without edges, which would wait for messages for ever.
    """

    def __init__(self, question: Deduction, device: torch.device | None = None) -> None:
        back = [(target, kind + len(EDGE_MAPS) // 2, source) for source, kind, target in question.edges]
        self.edges = [*question.edges, *back]
        self.nodes, self.start = len(question.nodes), question.start
        self.answer = torch.tensor([question.answer], device=device)
        self.leaving: list[list[int]] = [[] for _ in question.nodes]
        self.adjacency = torch.zeros(len(EDGE_MAPS), self.nodes, self.nodes, device=device)
        for number, (source, kind, target) in enumerate(self.edges):
            self.leaving[source].append(number)
            self.adjacency[kind, target, source] += 1
        if [] in self.leaving:
            name = question.nodes[self.leaving.index([])]
            raise UserError(
                f"node {shown(name)} of a question's graph has no edge; connect it, or leave it out"
            )


class GRU(nn.Module):
    """Sums of messages and states side by side (rows, 2 width) to states (rows, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, width)

    def forward(self, x: Tensor) -> Any:
        """See `torch.nn.GRUCell`."""
        return self.cell(*x.chunk(2, 1))
