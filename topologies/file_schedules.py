"""Schedules of graphs from files, one a round."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from topologies.deferred import Deferred
from topologies.files import read_graph
from topologies.schedules import Schedule, cyclic
from topologies.weights import WEIGHTS
from topologies.wording import shown

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Deferred("networkx")


def from_files(
    paths: list[str | os.PathLike[str]], weights: str = "metropolis", directed: bool = False
) -> Schedule:
    """Graphs of files in turn, over and over: round t mixes on that of ``paths[t mod len(paths)]``.

    Each file is read as by ``read_graph``, and all hold the same nodes (in an edge list, a node without edges
    is a line of its own). ``weights`` names a rule in ``WEIGHTS``, for every round. A round need not be
    connected, unless the rule is best-constant, but all together must be. Raises ValueError otherwise.
    """
    if isinstance(paths, (str, os.PathLike)) or not paths:
        raise ValueError(
            f"paths = {shown(paths)} should be a list of graph files, one a round; give one at least"
        )
    if weights not in WEIGHTS:
        raise ValueError(
            f"unknown weights {shown(weights)} of several files; use one of {', '.join(WEIGHTS)}"
        )
    graphs = [read_graph(path, directed) for path in paths]
    for path, graph in zip(paths, graphs, strict=True):
        _check_same_nodes(paths[0], graphs[0], path, graph)
    turns = []
    for path, graph in zip(paths, graphs, strict=True):
        try:
            if weights.endswith("best-constant") and not nx.is_connected(graph.to_undirected()):
                raise ValueError(
                    "best-constant needs a connected graph in every round; use weights 'metropolis'"
                )
            turns.append(WEIGHTS[weights](graph))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return cyclic(turns)


def _check_same_nodes(
    path: str | os.PathLike[str], graph: nx.Graph, other: str | os.PathLike[str], second: nx.Graph
) -> None:
    labels = [{str(label) for _, label in one.nodes(data="label")} for one in (graph, second)]
    if labels[0] != labels[1]:
        node = min(labels[0] ^ labels[1])
        holder, lacking = (path, other) if node in labels[0] else (other, path)
        sizes = f"{path} has {len(graph)} nodes and {other} {len(second)}"
        raise ValueError(
            f"{sizes}; {lacking} has no node {shown(node)}, which {holder} has: give all files the same nodes"
        )
