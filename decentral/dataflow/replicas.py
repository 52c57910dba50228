"""Copies of a heavy node, or of all of them, so that several workers share the work; averaged now and then.

An instance goes to the copy of its key modulo their number. The copies of a node have the same parameters at first and
after each averaging, and learn on their own between.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decentral.dataflow.ends import Input
from decentral.dataflow.graph import Network
from decentral.dataflow.nodes import Cond, Node, Phi
from decentral.dataflow.transforms import Transform

if TYPE_CHECKING:
    from decentral.dataflow.worker import Worker

Make = Callable[..., Transform]
"""make(name, kind=Transform, replica=0): the transform of the model's module of that name, or of a copy of it."""


def add_replicated(
    net: Network,
    name: str,
    make: Make,
    source: Node | tuple[Node, int],
    replicas: int,
    kind: type[Transform] = Transform,
) -> Node:
    """``replicas`` transforms between a Cond and a Phi. Nodes ``name.0``, ``name.1``, ...; a single one is ``name``."""
    if replicas == 1:
        return net.add(name, make(name, kind), source)
    which = net.add(f"{name}?", _by_key(replicas), source)
    copies = [net.add(f"{name}.{i}", make(name, kind, i), (which, i)) for i in range(replicas)]
    _are_copies(net, name, copies)
    return net.add(f"{name}!", Phi(replicas), *copies)


def replicated(build: Callable[[Make], Network], make: Make, replicas: int) -> Network:
    """One Input, and ``replicas`` copies of all that ``build(make)`` puts behind it, named as above.

    ``Network.copies`` has the number of the copy that each node belongs to.
    """
    parts = [build(functools.partial(make, replica=i)) for i in range(replicas)]
    (source,) = parts[0].of_type(Input)
    edges = [part.edges for part in parts]  # adding a node elsewhere opens its ports
    net = Network()
    net.add(source.name, source)
    which = [
        net.add(
            f"{source.name}[{out}]?" if source.outputs > 1 else f"{source.name}?",
            _by_key(replicas),
            (source, out),
        )
        for out in range(source.outputs)
    ]
    for i, part in enumerate(parts):
        for name, node in part.nodes.items():
            if not isinstance(node, Input):
                net.copies[net.add(f"{name}.{i}", node).name] = i
        for edge in edges[i]:
            begin = (which[edge.out], i) if isinstance(edge.source, Input) else (edge.source, edge.out)
            net.connect(begin, edge.target, edge.port)
    for name, node in parts[0].nodes.items():
        if isinstance(node, Transform):
            _are_copies(net, name, [net.nodes[f"{name}.{i}"] for i in range(replicas)])
    net.check()
    return net


def _by_key(replicas: int) -> Cond:
    return Cond(lambda state: state[0] % replicas, replicas)


def _are_copies(net: Network, name: str, copies: Sequence[Node]) -> None:
    net.replicas[name] = [copy.name for copy in copies]
    for i, copy in enumerate(copies):
        copy.replica = i, len(copies)  # type: ignore[attr-defined]


def copies_on(worker: Worker) -> dict[str, list[Tensor]]:
    """The parameters of the copies that the worker hosts, by node."""
    names = (name for group in worker.network.replicas.values() for name in group if name in worker.nodes)
    return {name: [p.data for p in worker.nodes[name].module.parameters()] for name in names}  # type: ignore[attr-defined]


def means(network: Network, copies: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
    """What every copy is to become: the mean over its group, summed in the copies' order."""
    found: dict[str, list[Tensor]] = {}
    for group in network.replicas.values():
        mean = [
            functools.reduce(torch.add, same) / len(same)
            for same in zip(*map(copies.get, group), strict=True)
        ]
        found |= dict.fromkeys(group, mean)
    return found


def put(worker: Worker, values: Mapping[str, Sequence[Tensor]]) -> None:
    """Overwrite the parameters of the copies that the worker hosts."""
    for name, own in copies_on(worker).items():
        for p, value in zip(own, values[name], strict=True):
            p.copy_(value)
