"""Networks of nodes: instances a second against a loop in plain torch, and what the runtime itself costs.

Questions: does computing waiting messages together pay for the messages? Is the runtime cheap where nothing is
computed? Do two ranks go faster than one process? The loop takes one instance at a time, a tree's leaves at once.
"""

from __future__ import annotations

import copy
import json
import time
from statistics import median
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.ranks import cores_note, launch, main, slowed
from benchmarks.timing import Line, at_least, at_most, interleaved
from decentral.allocator import collect_rarely, keep_freed_memory
from decentral.dataflow.control import Controller, serve
from decentral.dataflow.ends import Input, Loss
from decentral.dataflow.graph import Network
from decentral.dataflow.models.lists import ListRNN
from decentral.dataflow.models.trees import TreeLSTM
from decentral.dataflow.nodes import StateUpdate
from decentral.dataflow.replicas import replicated
from decentral.dataflow.transforms import Transform
from decentral.dataflow.updates import Updates
from decentral.dataflow.worker import Worker
from decentral.problems.data.list_reduction import list_reduction
from decentral.problems.data.sentiment_trees import Treebank, random_trees
from decentral.runtime import VirtualClock

WIDTH, LEAVES, ACTIVE = 128, 18, (8, 16, 32, 64)
EVERY = 50  # instances an update, of nodes and of the loop
HOPS, BATCH = 40, 32


def trees(count: int = 300) -> TreeLSTM:
    """Random binary trees."""
    words = ("", *map(str, range(5)))  # word 0 is the unknown one
    return TreeLSTM(Treebank(random_trees("train", count, LEAVES), (), (), words), WIDTH, 0)


def lists(count: int = 600) -> ListRNN:
    """Lists of 2 to 10 tokens."""
    return ListRNN(list_reduction(count, 1), WIDTH, 0)


def loop(model: Any, loss_of: Any) -> None:
    """All instances, one after the other, by autograd."""
    optimizer = torch.optim.SGD(model.modules.parameters(), lr=1e-3)
    for n, key in enumerate(model.train):
        loss_of(model, key).backward()
        if (n + 1) % EVERY == 0:
            optimizer.step()
            optimizer.zero_grad()


def tree_loss(model: TreeLSTM, key: int) -> torch.Tensor:
    """A bare loop over a tree's inner nodes."""
    tree, modules = model.trees[key], model.modules
    leaves, values = iter(modules["leaf"](modules["embedding"](tree.words)).split(1)), []
    for below in tree.children:
        values.append(modules["cell"](torch.cat([values[i] for i in below], 1)) if below else next(leaves))
    (label,) = tree.labels.values()
    return cross_entropy(modules["head"](values[-1]), model.classes[label])


def list_loss(model: ListRNN, key: int) -> torch.Tensor:
    """A bare loop over a list's tokens."""
    modules, hidden = model.modules, model.first
    for token in modules["embedding"](model.tokens[key, : model.lengths[key]]).split(1):
        hidden = modules["cell"](torch.cat([token, hidden], 1))
    return cross_entropy(modules["head"](hidden), model.labels[key : key + 1])


def network(model: Any, replicas: int = 1) -> Network:
    """The model's network, or so many of it, with copies of its modules."""
    modules = copy.deepcopy(model.modules)

    def make(name: str, kind: type[Transform] = Transform, replica: int = 0) -> Transform:
        module = modules[name] if not replica else copy.deepcopy(modules[name])
        return kind(module, Updates(torch.optim.SGD(module.parameters(), lr=1e-3), EVERY, "instances"))

    made: Network = model.network(make) if replicas == 1 else replicated(model.network, make, replicas)
    return made


def messages(model: Any, active: int) -> None:
    """All instances through the network, on one worker."""
    worker = Worker(0, (net := network(model)), dict.fromkeys(net.nodes, 0))
    VirtualClock({0: Controller(worker, active, 1, [model.train]).run()}, lambda *_: 0.0).run()


def hop_s(count: int = 200) -> float:
    """Seconds of a message's way through one steering node and back."""

    def chain(hops: int) -> float:
        net = Network()
        node: Any = net.add("in", Input(lambda key: [(0, (key, 0), torch.zeros(1, 2))]))
        for i in range(hops):
            node = net.add(f"{i}", StateUpdate(lambda s: (s[0], s[1] + 1), lambda s: (s[0], s[1] - 1)), node)
        net.add("loss", Loss(lambda s: torch.zeros(1, dtype=torch.long)), node)
        worker = Worker(0, net, dict.fromkeys(net.nodes, 0))
        controller = Controller(worker, BATCH, 1, [range(count * BATCH)])
        began = time.perf_counter()
        VirtualClock({0: controller.run()}, lambda *_: 0.0).run()
        return time.perf_counter() - began

    return median((chain(HOPS) - chain(0)) / (HOPS * count * BATCH) for _ in range(5))


def queued_s(count: int = 200) -> float:
    """Seconds of a message's way through the queue of a transform and back, but for what torch does with it."""
    x, nodes = torch.zeros(BATCH, 8), 10

    def chain(length: int) -> float:
        net = Network()
        node: Any = net.add("in", Input(lambda key: [(0, (key,), x[:1])]))
        for i in range(length):
            node = net.add(f"{i}", Transform(torch.nn.Identity()), node)
        net.add("loss", Loss(lambda s: torch.zeros(1, dtype=torch.long)), node)
        worker = Worker(0, net, dict.fromkeys(net.nodes, 0))
        controller = Controller(worker, BATCH, 1, [range(count * BATCH)])
        began = time.perf_counter()
        VirtualClock({0: controller.run()}, lambda *_: 0.0).run()
        return time.perf_counter() - began

    def kernels() -> float:
        """What torch does for a batch there and back: join and cut, then join both, differentiate, and cut."""
        began = time.perf_counter()
        sizes = [1] * BATCH
        for _ in range(count):
            rows = torch.split_with_sizes(x, sizes)
            torch.cat(rows)
            torch.cat(rows)
            y = torch.cat(rows).requires_grad_()
            torch.autograd.backward(y, x)
            torch.split_with_sizes(x, sizes)
        return time.perf_counter() - began

    return median((chain(nodes) - chain(0)) / nodes - kernels() for _ in range(5)) / (count * BATCH)


def on_two_ranks(turns: int = 3) -> dict[str, float]:
    """Seconds of the trees on one rank alone, with the nodes on two, and with a copy of all nodes on each."""
    from mpi4py import MPI

    from decentral.comm.mpi_world import MPIWorld
    from decentral.runtime.mpi import MPIDriver

    keep_freed_memory()
    world, model = MPI.COMM_WORLD, trees()
    torch.set_num_threads(1)
    found = {"slowed": slowed(MPIWorld())}
    network(model)  # imports what torch's optimizers need
    collect_rarely()

    def go(place: dict[str, int], replicas: int, ranks: int) -> float:
        worker = Worker(world.rank, network(model, replicas), place)
        program = Controller(worker, 64, ranks, [model.train]).run() if world.rank == 0 else serve(worker)
        world.Barrier()
        began = time.perf_counter()
        MPIDriver({world.rank: program}, [0, 1], timeout_s=60).run()
        return time.perf_counter() - began

    def alone() -> float:
        if world.rank:
            return 0.0
        began = time.perf_counter()
        messages(model, 64)
        return time.perf_counter() - began

    both = network(model, 2)
    parallel = {name: int(name == "cell") for name in network(model).nodes}
    apart = {name: both.copies.get(name, 0) for name in both.nodes}
    runs = {
        "alone": alone,
        "parallel": lambda: go(parallel, 1, 2),
        "replicas": lambda: go(apart, 2, 2),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            world.Barrier()
            took = world.allreduce(run(), MPI.MAX)
            if turn:
                times[name].append(took)
    return found | {name: median(values) for name, values in times.items()}


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} us"


def measure() -> list[Line]:
    """The table."""
    keep_freed_memory()  # as `decentral run` does; of use to the loop too
    torch.set_num_threads(1)
    network(lists(1))  # imports what torch's optimizers need
    collect_rarely()  # as runs of nodes do
    lines = []
    for what, model, loss_of, at_most_keys in (
        (f"trees of {LEAVES} leaves", trees(), tree_loss, 7.0),
        ("lists", lists(), list_loss, 5.0),
    ):
        contenders = {"loop": lambda m=model, f=loss_of: loop(m, f)}
        contenders |= {str(active): lambda m=model, a=active: messages(m, a) for active in ACTIVE}
        found = interleaved(contenders, repeats=5, warm=1)
        count = len(model.train)
        for active in ACTIVE:
            target = at_most_keys if active == ACTIVE[-1] else 1.0
            lines.append(
                at_least(
                    f"{what}, width {WIDTH}, {active} active keys: looped torch / messages",
                    found[str(active)] / count, found["loop"] / count, target,
                )
            )  # fmt: skip
    steering, queue = (
        "a message through a steering node and back, against 2 us each way",
        "the same, a queue, 8 us",
    )
    lines.append(at_most(steering, hop_s(), 4e-6, 1.0, _us))
    lines.append(at_most(queue, queued_s(), 16e-6, 1.0, _us))
    two = json.loads(launch(2, "-m", "benchmarks.dataflow", "on_two_ranks"))
    cores = cores_note(two["slowed"])
    for what, name, target in (
        ("the cell on another rank", "parallel", 1.0),
        ("a copy of all nodes on each rank", "replicas", 1.5),
    ):
        shown = f"trees, {what}: one process / 2 ranks{cores}"
        lines.append(at_least(shown, two[name], two["alone"], target))
    return lines


if __name__ == "__main__":
    main("dataflow", measure, on_two_ranks)
