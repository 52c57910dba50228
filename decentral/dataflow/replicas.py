"""Copies of a heavy node, so that several workers can share its work; their parameters are averaged now and then."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decentral.dataflow.network import Network
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
    """``replicas`` transforms between a Cond and a Phi, an instance to the one of its key modulo ``replicas``.

    Nodes ``name.0``, ``name.1``, ...; a single one is just ``name``.
    """
    if replicas == 1:
        return net.add(name, make(name, kind), source)
    which = net.add(f"{name}?", Cond(lambda state: state[0] % replicas, replicas), source)
    copies = [net.add(f"{name}.{i}", make(name, kind, i), (which, i)) for i in range(replicas)]
    net.replicas[name] = [copy.name for copy in copies]
    return net.add(f"{name}!", Phi(replicas), *copies)


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
