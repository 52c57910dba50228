"""From a configuration to workers: the model's network with its updates, where its nodes are, what they cost."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from decentral.dataflow.control import Controller, updates_of
from decentral.dataflow.ends import Input
from decentral.dataflow.graph import Network
from decentral.dataflow.models import model_of
from decentral.dataflow.queues import Queued
from decentral.dataflow.replicas import replicated
from decentral.dataflow.transforms import Transform
from decentral.dataflow.updates import Updates
from decentral.dataflow.worker import Worker
from decentral.errors import UserError
from decentral.runs.place import place_of
from decentral.runtime.clock import VirtualClock
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.runs.dataflow.config import DataflowRun

_PROFILED = 8  # instances


class Plan:
    """The model as it was initialised; ``place`` of each node and ``flops`` of a message by (node, direction).

    ``modules``: name of a node with parameters -> that of its module in the model.

    Raises UserError for a network, a placement or names that do not fit.
    """

    def __init__(self, config: DataflowRun, device: torch.device) -> None:
        self.config = config
        place = place_of(config, range(1), device)
        self.model = model_of(config.problem, place.batch_size, config.seed, place.dtype, device)
        self.modules: dict[str, str] = {}
        network, settings = self.network(), config.dataflow
        self.names = list(network.nodes)
        copied = {name for group in network.replicas.values() for name in group}
        learn = [name for name in self.names if name not in copied] + list(network.replicas)
        for key, given, names in (
            ("frequencies", settings.frequencies or {}, learn),
            ("place", settings.place, self.names),
        ):
            unknown = [] if isinstance(given, str) else [name for name in given if name not in names]
            if unknown:
                raise UserError(
                    f"dataflow.{key}: there is no node {shown(unknown[0])}; there are {', '.join(names)}"
                )
        self.flops: dict[tuple[str, str], float] = {}
        self.place: dict[str, int] = {}

    def layout(self) -> tuple[dict[tuple[str, str], float], dict[str, int]]:
        """``flops`` and ``place``, from a few instances: to be found on one rank, for all."""
        self.flops, messages = self._profile()
        return self.flops, self._place(messages)

    def network(self) -> Network:
        """A fresh network, with fresh copies of the modules and optimizers of its own."""

        def make(name: str, kind: type[Transform] = Transform, replica: int = 0) -> Transform:
            del replica
            module = copy.deepcopy(self.model.modules[name])
            frequency = (settings.frequencies or {}).get(name, settings.min_update_frequency)
            updates = None
            if any(p.requires_grad for p in module.parameters()):
                updates = Updates(
                    self.config.optimizer.build(module.parameters(), train.lr, train.weight_decay),
                    frequency, settings.unit, settings.reduce, settings.clip, settings.anneal, settings.ordered,
                )  # fmt: skip
            made[id(node := kind(module, updates, settings.stash))] = name
            return node

        settings, train = self.config.dataflow, self.config.train
        made: dict[int, str] = {}
        network: Network
        if settings.replicate == "all" and settings.replicas > 1:
            network = replicated(self.model.network, make, settings.replicas)
        else:
            network = self.model.network(make, settings.replicas)
            network.check()
        self.modules = {name: made[id(node)] for name, node in network.nodes.items() if id(node) in made}
        return network

    def load(self, parameters: Mapping[str, Sequence[Tensor]]) -> None:
        """Give the model the parameters of the nodes, by their names; of copies of a node the mean, summed in order."""
        for name, module in self.model.modules.items():
            copies = [
                parameters[node] for node, of in self.modules.items() if of == name and node in parameters
            ]
            for p, *values in zip(module.parameters(), *copies, strict=True):
                p.data.copy_(functools.reduce(torch.add, values) / len(values))

    def worker(self, number: int) -> Worker:
        """A fresh worker."""
        settings = self.config.dataflow
        return Worker(number, self.network(), self.place, settings.most if settings.batching else 1)

    def cost(self, worker: Worker) -> float:
        """Seconds on the virtual clock of the batch that the worker has just done."""
        name, direction, messages = worker.doing
        if not name:
            return 0.0
        settings = self.config.dataflow
        return settings.batch_s + self.flops.get((name, direction), 0.0) * messages / settings.flops_per_s

    def _profile(self) -> tuple[dict[tuple[str, str], float], Counter[tuple[str, str]]]:
        """FLOPs of a message, and how many there are, by node and direction, of the first instances."""
        worker = Worker(0, self.network(), dict.fromkeys(self.names, 0))
        for updates in updates_of(worker):
            updates.lr = 0.0
        flops: Counter[tuple[str, str]] = Counter()
        messages: Counter[tuple[str, str]] = Counter()

        @contextmanager
        def counted(_: int, kind: str) -> Iterator[None]:
            name, direction, count = worker.doing
            with FlopCounterMode(display=False) as counter:
                yield
            flops[name, direction] += counter.get_total_flops()
            messages[name, direction] += count

        keys = self.model.train[:_PROFILED]
        controller = Controller(worker, 1, 1, [keys])
        VirtualClock({0: controller.run()}, lambda *_: 0.0, around=counted).run()
        return {key: flops[key] / count for key, count in messages.items() if count}, messages

    def _place(self, messages: Mapping[tuple[str, str], int]) -> dict[str, int]:
        """Nodes that work or learn, by descending work, to the worker that has least; others where messages come from.

        The Input is on worker 0. Where there are more workers, further nodes with queues get one of their own.
        """
        settings, nodes = self.config.dataflow, self.network().nodes
        queued = [name for name, node in nodes.items() if isinstance(node, Queued)]
        if settings.workers > len(queued):
            raise UserError(
                f"dataflow.workers = {settings.workers} but the network has {len(queued)} nodes that compute; use as "
                "many at the most"
            )
        if not isinstance(settings.place, str):
            return self._given(settings.place)
        if copies := self.network().copies:
            if settings.workers > settings.replicas:
                raise UserError(
                    f"dataflow.workers = {settings.workers} but there are {settings.replicas} replicas of all nodes; "
                    "use as many workers at the most, or place the nodes by name"
                )
            return {name: copies.get(name, 0) % settings.workers for name in self.names}
        work = {
            name: sum(
                self.flops.get((name, way), 0.0) * messages[name, way] for way in ("forward", "backward")
            )
            for name in queued
        }
        heavy = [name for name in queued if work[name] or getattr(nodes[name], "updates", None)]
        heavy += [name for name in queued if name not in heavy][: max(0, settings.workers - len(heavy))]
        load = dict.fromkeys(range(settings.workers), (0.0, 0))
        place: dict[str, int] = {}
        for name in sorted(heavy, key=lambda n: -work[n]):
            worker = min(load, key=lambda w: load[w])
            place[name] = worker
            load[worker] = load[worker][0] + work[name], load[worker][1] + 1
        for name, node in nodes.items():
            if name not in place:
                place[name] = place[node.ins[0].source.name] if node.ins else 0
        return {name: place[name] for name in self.names}

    def _given(self, given: Mapping[str, int]) -> dict[str, int]:
        workers = self.config.dataflow.workers
        place = dict.fromkeys(self.names, 0) | dict(given)
        bad = next((name for name, w in place.items() if not 0 <= w < workers), None)
        if bad is not None:
            raise UserError(f"dataflow.place.{bad} = {place[bad]} is no worker; there are {workers}, from 0")
        (source,) = self.network().of_type(Input)
        if place[source.name]:
            raise UserError(
                f"dataflow.place.{source.name} = {place[source.name]}: instances begin on worker 0"
            )
        return place
