"""A static graph of nodes, built by naming what each node gets its messages from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import networkx as nx

from decentral.dataflow.edges import Edge
from decentral.dataflow.nodes import Node, Phi
from decentral.errors import UserError
from topologies.wording import shown

N = TypeVar("N", bound=Node)


class Out(NamedTuple):
    """An output port of a node."""

    node: Node
    port: int


class Network:
    """Nodes by name, in the order they were added, and the edges between their ports.

        net = Network()
        pixels = net.add("pixels", Input(emit))
        hidden = net.add("hidden", Transform(module), pixels)
        net.add("loss", Loss(labels_of), hidden)
        net.check()

    A node that has several outputs is named with the port: ``(node, 1)``. An input that closes a loop is connected
    later: ``net.connect((cond, 0), phi, 1)``.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge[Node]] = []
        self.replicas: dict[str, list[str]] = {}  # groups of nodes that are copies of each other
        self.copies: dict[str, int] = {}  # where all nodes have copies: to which one a node belongs

    def add(self, name: str, node: N, *sources: Node | tuple[Node, int]) -> N:
        """Put a node in, with its first inputs connected to these sources, in order; the node."""
        if name in self.nodes:
            raise UserError(f"the network already has a node {shown(name)}; choose another name")
        node.name = name
        node.ins = [_OPEN] * node.inputs
        node.outs = [_OPEN] * node.outputs
        self.nodes[name] = node
        for port, source in enumerate(sources):
            self.connect(source, node, port)
        return node

    def connect(self, source: Node | tuple[Node, int], target: Node, port: int = 0) -> None:
        """An edge. Raises UserError for ports that do not exist or are taken."""
        origin, out = source if isinstance(source, tuple) else (source, 0)
        for node, ports, number, word in (
            (origin, origin.outs, out, "output"),
            (target, target.ins, port, "input"),
        ):
            if not 0 <= number < len(ports):
                raise UserError(
                    f"node {shown(node.name)} has {len(ports)} {word}s; there is no {word} {number}"
                )
            if ports[number] is not _OPEN:
                raise UserError(
                    f"{word} {number} of node {shown(node.name)} is already connected; use a Bcast or a Phi"
                )
        edge = Edge(origin, out, target, port)
        origin.outs[out] = target.ins[port] = edge
        self.edges.append(edge)

    def check(self) -> None:
        """Refuse open ports, and loops without a Phi, in which no message could ever begin."""
        for node in self.nodes.values():
            for ports, word in ((node.ins, "input"), (node.outs, "output")):
                if _OPEN in ports:
                    raise UserError(
                        f"{word} {ports.index(_OPEN)} of node {shown(node.name)} is open; connect it"
                    )
        graph = self.graph()
        graph.remove_nodes_from([name for name, node in self.nodes.items() if isinstance(node, Phi)])
        inputs = [name for name, node in self.nodes.items() if not node.inputs]
        if len(inputs) != 1:
            raise UserError(f"the network has {len(inputs)} Inputs ({', '.join(inputs)}); it needs one")
        try:
            loop = nx.find_cycle(graph)
        except nx.NetworkXNoCycle:
            return
        names = " -> ".join([*(edge[0] for edge in loop), loop[0][0]])
        raise UserError(
            f"the nodes {names} are a loop without a Phi, so none of them gets a first message; add one"
        )

    def graph(self) -> nx.MultiDiGraph:
        """Nodes by name, an edge a connection."""
        graph = nx.MultiDiGraph()
        graph.add_nodes_from(self.nodes)
        graph.add_edges_from((edge.source.name, edge.target.name) for edge in self.edges)
        return graph

    def of_type(self, kind: type[N]) -> Iterator[N]:
        """The nodes of a type."""
        return (node for node in self.nodes.values() if isinstance(node, kind))

    def held(self) -> dict[str, int]:
        """What each node remembers of messages; nothing after a drain."""
        found = {name: node.held() for name, node in self.nodes.items()}
        found |= {str(edge): len(edge.waiting) for node in self.nodes.values() for edge in node.outs}
        return {name: count for name, count in found.items() if count}


_OPEN: Any = None
