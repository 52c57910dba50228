"""Small networks of nodes, each with the same arithmetic in plain torch, and a way to run them on the virtual clock."""

import random
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from decentral.dataflow.control import Controller, serve
from decentral.dataflow.ends import Input, Loss
from decentral.dataflow.graph import Network
from decentral.dataflow.groups import Group, Replicate, Ungroup
from decentral.dataflow.nodes import Bcast, Concat, Cond, Phi, Split, StateUpdate
from decentral.dataflow.transforms import Transform
from decentral.dataflow.worker import Worker
from decentral.runtime import Trace, VirtualClock

IN, WIDTH, CLASSES = 5, 6, 3


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def linear(a, b, seed):
    layer = nn.Linear(a, b, dtype=torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(0.6 * torch.randn(p.shape, generator=seeded(seed), dtype=torch.float64))
    return layer


class Case:
    """``count`` instances; ``rows``: of each. ``modules``, ``network`` and ``loss`` differ by structure."""

    def __init__(self, count=12):
        self.count = count
        self.rows = [1 + (3 * k) % 5 for k in range(count)]
        self.x = [
            torch.randn(n, IN, generator=seeded(k), dtype=torch.float64) for k, n in enumerate(self.rows)
        ]
        self.y = [torch.randint(CLASSES, (n,), generator=seeded(99 + k)) for k, n in enumerate(self.rows)]

    def reference(self):
        """Modules whose ``grad`` is the sum over the instances."""
        modules = self.modules()
        for key in range(self.count):
            self.loss(modules, key).backward()
        return modules


class Chain(Case):
    """Three affine layers with tanh in between."""

    names = ("in", "a", "tanh 1", "b", "tanh 2", "c", "loss")

    def modules(self):
        return {
            "a": linear(IN, WIDTH, 1), "tanh 1": nn.Tanh(), "b": linear(WIDTH, WIDTH, 2), "tanh 2": nn.Tanh(),
            "c": linear(WIDTH, CLASSES, 3),
        }  # fmt: skip

    def network(self, make):
        net = Network()
        node = net.add("in", Input(lambda k: [(0, (k,), self.x[k])]))
        for name in self.names[1:-1]:
            node = net.add(name, make(name), node)
        net.add("loss", Loss(lambda state: self.y[state[0]]), node)
        return net

    def loss(self, m, key):
        return cross_entropy(nn.Sequential(*(m[name] for name in self.names[1:-1]))(self.x[key]), self.y[key])


class Lists(Case):
    """A recurrent cell over the rows of an instance, one after the other; the last state is classified."""

    def modules(self):
        cell = nn.Sequential(linear(IN + WIDTH, WIDTH, 1), nn.Tanh())
        return {"cell": cell, "head": linear(WIDTH, CLASSES, 2)}

    def network(self, make):
        zero = torch.zeros(1, WIDTH, dtype=torch.float64)
        net = Network()
        source = net.add("in", Input(lambda k: [(0, (k, 0), zero), (1, (k, 0), self.x[k])], 2))
        tokens = net.add(
            "tokens", Ungroup(lambda s: [(s[0], t) for t in range(self.rows[s[0]])]), (source, 1)
        )
        memory = net.add("memory", Phi(), source)
        ended = net.add("ended?", Cond(lambda s: s[1] == self.rows[s[0]]), memory)
        both = net.add("both", Concat(), tokens, ended)
        cell = net.add("cell", make("cell"), both)
        after = net.add("next", StateUpdate(lambda s: (s[0], s[1] + 1), lambda s: (s[0], s[1] - 1)), cell)
        net.connect(after, memory, 1)
        net.add("loss", Loss(lambda s: self.y[s[0]][:1]), net.add("head", make("head"), (ended, 1)))
        return net

    def loss(self, m, key):
        h = torch.zeros(1, WIDTH, dtype=torch.float64)
        for x in self.x[key].split(1):
            h = m["cell"](torch.cat([x, h], 1))
        return cross_entropy(m["head"](h), self.y[key][:1])


class Trees(Case):
    """Rows are leaves; the first two values of a line are joined to one that goes to its end, until one is left."""

    def modules(self):
        pair = nn.Sequential(linear(2 * WIDTH, WIDTH, 2), nn.Tanh())
        return {"leaf": linear(IN, WIDTH, 1), "pair": pair, "head": linear(WIDTH, CLASSES, 3)}

    def network(self, make):  # value i of n leaves is side i % 2 of pair n + i // 2
        leaves = self.rows
        net = Network()
        leaf = net.add("leaf", make("leaf"), net.add("in", Input(lambda k: [(0, (k, -1), self.x[k])])))
        each = net.add("leaves", Ungroup(lambda s: [(s[0], i) for i in range(leaves[s[0]])]), leaf)
        values = net.add("values", Phi(), each)
        root = net.add("root?", Cond(lambda s: s[1] == 2 * leaves[s[0]] - 2), values)
        side = net.add("side?", Cond(lambda s: s[1] % 2), root)
        both = net.add("both", Concat(2, lambda s: (s[0], leaves[s[0]] + s[1] // 2)), (side, 0), (side, 1))
        net.connect(net.add("pair", make("pair"), both), values, 1)
        net.add("loss", Loss(lambda s: self.y[s[0]][:1]), net.add("head", make("head"), (root, 1)))
        return net

    def loss(self, m, key):
        line = list(m["leaf"](self.x[key]).split(1))
        while len(line) > 1:
            line = [*line[2:], m["pair"](torch.cat(line[:2], 1))]
        return cross_entropy(m["head"](line[0]), self.y[key][:1])


class Graphs(Case):
    """Messages along the edges of a graph; each node adds up what comes and is classified; two diamonds on the way.

    Node i sends to i + 1 (mod n), node 0 also to all others; the last of three or more sends nothing.
    """

    def __init__(self, count=12):
        super().__init__(count)
        self.targets, self.sources = [], []
        for n in self.rows:
            targets = [[(i + 1) % n] for i in range(n)]
            if n > 2:
                targets[0], targets[-1] = list(range(n)), []
            self.targets.append(targets)
            self.sources.append([[i for i in range(n) if j in targets[i]] for j in range(n)])

    def modules(self):
        return {
            "embed": linear(IN, WIDTH, 1), "send": linear(WIDTH, WIDTH, 2), "gate": nn.Sigmoid(),
            "update": nn.Sequential(linear(WIDTH, WIDTH, 3), nn.Tanh()), "head": linear(2 * WIDTH, CLASSES, 4),
        }  # fmt: skip

    def network(self, make):
        net, half = Network(), WIDTH // 2
        embed = net.add("embed", make("embed"), net.add("in", Input(lambda k: [(0, (k,), self.x[k])])))
        each = net.add("nodes", Ungroup(lambda s: [(s[0], i) for i in range(self.rows[s[0]])]), embed)
        both = net.add("copy", Bcast(), each)
        # an edge's message is (key, source, target)
        edges = net.add("edges", Replicate(lambda s: [(*s, j) for j in self.targets[s[0]][s[1]]]), both)
        sent = net.add("send", make("send"), edges)
        size = lambda s: len(self.sources[s[0]][s[1]])  # noqa: E731
        come = net.add("come", Group(lambda s: (s[0], s[2]), size, summed=True), sent)
        cut = net.add("cut", Split([half, WIDTH - half]), come)
        gated = net.add("gated", Concat(), net.add("gate", make("gate"), cut), (cut, 1))
        joined = net.add("joined", Concat(), (both, 1), net.add("update", make("update"), gated))
        whole = net.add("whole", make("head"), joined)
        rows = net.add("rows", Group(lambda s: s[:1], lambda s: self.rows[s[0]]), whole)
        net.add("loss", Loss(lambda s: self.y[s[0]], weight_of=lambda s: 1.0 + s[0]), rows)
        return net

    def loss(self, m, key):
        h = m["embed"](self.x[key])
        come = torch.stack([sum(m["send"](h[i]) for i in s) for s in self.sources[key]])
        half = WIDTH // 2
        come = torch.cat([m["gate"](come[:, :half]), come[:, half:]], 1)
        y = m["head"](torch.cat([h, m["update"](come)], 1))
        return (1.0 + key) * cross_entropy(y, self.y[key])


CASES = (Chain, Lists, Trees, Graphs)


@dataclass
class Ran:
    """What is left of a run. ``modules``, ``nodes``: by name, of the worker that has them."""

    modules: dict
    nodes: dict
    controller: Controller
    workers: list
    trace: Trace


def built(case, updates=None, stash=False, kind=None):
    """A network and its modules. ``updates(name, parameters)``: of a node, or None. ``kind``: by name, of a node."""
    modules = case.modules()

    def make(name):
        parameters = list(modules[name].parameters())
        of_node = updates(name, parameters) if updates and parameters else None
        return (kind or {}).get(name, Transform)(modules[name], of_node, stash)

    net = case.network(make)
    net.check()
    return net, modules


def scattered(names, workers, seed):
    """Nodes on workers by chance, the first, the Input, on worker 0."""
    draw = random.Random(seed)
    return {name: draw.randrange(workers) if i else 0 for i, name in enumerate(names)}


def play(
    case, active=1, workers=1, most=1, phases=None, place=None, cost=None, link=None, averages=None, **network
):
    """Run the phases (by default one, of all instances) to their end."""
    copies = [built(case, **network) for _ in range(workers)]
    place = place or scattered(copies[0][0].nodes, workers, workers)
    hosts = [Worker(w, net, place, most) for w, (net, _) in enumerate(copies)]
    phases = [range(case.count)] if phases is None else phases
    controller = Controller(hosts[0], active, workers, phases, averages or (lambda number: False))
    programs = {0: controller.run(), **{w: serve(hosts[w]) for w in range(1, workers)}}
    trace = VirtualClock(programs, cost or (lambda stage, kind: 1.0), link).run()
    nodes = {name: copies[place[name]][0].nodes[name] for name in place}
    modules = {
        name: next(m[name] for w, (net, m) in enumerate(copies) for n in net.nodes.values()
                   if getattr(n, "module", None) is m[name] and place[n.name] == w)
        for name in copies[0][1]
    }  # fmt: skip
    return Ran(modules, nodes, controller, hosts, trace)


def same_bits(a, b):
    """Whether two dictionaries of modules have the same parameters."""
    return all(
        torch.equal(p, q) for n in a for p, q in zip(a[n].parameters(), b[n].parameters(), strict=True)
    )


def distance(a, b, of=lambda p: p.detach()):
    """The largest difference of two dictionaries of modules, in their parameters or, say, gradients."""
    pairs = [pair for name in a for pair in zip(a[name].parameters(), b[name].parameters(), strict=True)]
    return max((float((of(p) - of(q)).abs().max()) for p, q in pairs), default=0.0)
