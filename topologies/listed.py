"""What a graph's file lists, and the graph that this is: rules checked, workers numbered."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from topologies.deferred import Deferred
from topologies.real_numbers import real
from topologies.wording import shown

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Deferred("networkx")

MOST_NODES, MOST_EDGES = 100_000, 2_000_000
"""Of a graph in a file."""


_DIGITS = "0123456789"
_LONGEST_LABEL = 1_000


class Edge(NamedTuple):
    """``place``: the number of the line or of the item that lists it."""

    a: Any
    b: Any
    data: dict[str, Any]
    place: int


@dataclass
class Listed:
    """Nodes and edges as a file lists them; ``where``: how a place is called, as in ``"line {}"``.

    Raises ValueError where there are too many, and for a weight that is no finite real number.
    """

    directed: bool
    where: str = "line {}"
    nodes: dict[Any, dict[str, Any]] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)

    def node(self, label: Any, data: dict[str, Any] | None = None) -> None:
        """A node, or more of what is known of one."""
        if label not in self.nodes and len(str(label)) > _LONGEST_LABEL:
            raise ValueError(
                f"a node is called {shown(label)}; the longest name has {_LONGEST_LABEL:,} characters"
            )
        self.nodes.setdefault(label, {}).update(data or {})
        if len(self.nodes) > MOST_NODES:
            raise ValueError(
                f"it has more than {MOST_NODES:,} nodes, the most of a file; give a smaller graph"
            )

    def edge(self, a: Any, b: Any, data: dict[str, Any] | None, place: int) -> None:
        """An edge, and its ends if they are new."""
        self.node(a)
        self.node(b)
        data = data or {}
        if data.get("weight") is not None:
            try:
                data["weight"] = real(data["weight"])
            except ValueError as error:
                raise ValueError(f"{self.where.format(place)}: the weight {error}") from None
        self.edges.append(Edge(a, b, data, place))
        if len(self.edges) > 2 * MOST_EDGES:
            raise ValueError(
                f"it lists more than {2 * MOST_EDGES:,} edges, the most of a file; give a smaller graph"
            )

    def graph(self, name: str) -> nx.Graph:
        """The graph with nodes 0..n-1, numbered by their labels in natural order.

        An undirected graph that lists all of its edges in both directions, with the same data, has each once.
        Raises ValueError where there are no nodes, and for edges that are there twice.
        """
        if not self.nodes:
            raise ValueError("the graph has no nodes")
        found = nx.MultiDiGraph() if self.directed else nx.MultiGraph()
        found.add_nodes_from(self.nodes.items())
        found.add_edges_from((edge.a, edge.b, edge.data) for edge in self._once())
        simple = nx.DiGraph(found) if self.directed else nx.Graph(found)
        order = sorted(simple, key=natural)
        graph = simple.__class__(name=name)
        graph.add_nodes_from(
            (i, simple.nodes[label] | {"label": str(label)}) for i, label in enumerate(order)
        )
        number = {label: i for i, label in enumerate(order)}
        graph.add_edges_from((number[a], number[b], data) for a, b, data in simple.edges(data=True))
        return graph

    def _once(self) -> list[Edge]:
        first: dict[tuple[Any, Any], Edge] = {}
        for edge in self.edges:
            if (other := first.setdefault((edge.a, edge.b), edge)) is not edge:
                raise ValueError(self._twice(other, edge))
        pairs = [edge for edge in self.edges if edge.a != edge.b and (edge.b, edge.a) in first]
        if self.directed or not pairs:
            return self.edges
        if len(pairs) < sum(edge.a != edge.b for edge in self.edges):
            raise ValueError(self._twice(pairs[0], first[pairs[0].b, pairs[0].a]))
        for edge in pairs:
            if edge.data != first[edge.b, edge.a].data:
                rule = "differs between its directions; list it once, or set directed = true"
                raise ValueError(f"{self.where.format(edge.place)}: the edge {_named(edge)} {rule}")
        return [edge for edge in self.edges if edge.place <= first.get((edge.b, edge.a), edge).place]

    def _twice(self, one: Edge, two: Edge) -> str:
        places = f"{self.where.format(one.place)} and {self.where.format(two.place)}"
        return f"some edges are there twice ({_named(one)}: {places}); leave one of each"


def natural(label: Any) -> list[tuple[bool, int, str, str]]:
    """A key of labels as text, but digits compare as the numbers they write: 2 before 10, node2 before node10."""
    parts = [part for part in re.split(r"([0-9]+)", str(label)) if part]
    numbers = [part.lstrip("0") if part[0] in _DIGITS else None for part in parts]
    return [(n is None, len(n or ""), n or "", part) for n, part in zip(numbers, parts, strict=True)]


def _named(edge: Edge) -> str:
    return f"{shown(str(edge.a))[1:-1]} - {shown(str(edge.b))[1:-1]}"
