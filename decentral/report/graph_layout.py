"""Layout: where the nodes of a graph are drawn, by what the graph is.

A constructor of :mod:`topologies` leaves its name and shape on the graph; any other graph gets the positions
of Kamada and Kawai, which keep distances on paper near to distances on the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import networkx as nx

Positions = dict[int, tuple[float, float]]

STRESS_LIMIT = 250
"""Workers above which springs replace the stress of Kamada and Kawai, which takes minutes there."""


def positions(graph: nx.Graph) -> Positions:
    """A place on the plane for each node."""
    if all("pos" in data for _, data in graph.nodes(data=True)):
        return _floats(graph.nodes(data="pos"))
    layout = _LAYOUTS.get(graph.graph.get("name", ""))
    if layout is not None:
        return layout(graph)
    plain = nx.Graph(graph.edges)  # distances do not depend on weights or directions here
    plain.add_nodes_from(graph)
    start = nx.circular_layout(graph)
    if len(graph) > STRESS_LIMIT:
        return _floats(nx.spring_layout(plain, pos=start, seed=0, iterations=100, weight=None).items())
    return _floats(nx.kamada_kawai_layout(plain, pos=start, weight=None).items())


def _circle(graph: nx.Graph) -> Positions:
    """Clockwise from the top."""
    return {i: _at(2 * math.pi * i / len(graph)) for i in graph}


def _arc(graph: nx.Graph) -> Positions:
    """A circle left open at the bottom, or a straight line where there is room for one."""
    n = len(graph)
    if n <= 8:
        return {i: (i, 0.0) for i in graph}
    return {i: _at(-0.85 * math.pi + 1.7 * math.pi * i / (n - 1)) for i in graph}


def _wheel(graph: nx.Graph) -> Positions:
    rim = max(1, len(graph) - 1)
    return {i: _at(2 * math.pi * (i - 1) / rim) if i else (0.0, 0.0) for i in graph}


def _lattice(graph: nx.Graph) -> Positions:
    """Row by row."""
    columns = len(graph) // graph.graph["rows"]
    return {i: (float(i % columns), -float(i // columns)) for i in graph}


def _torus(graph: nx.Graph) -> Positions:
    """Rows are rings round a common centre, turned a little so that an edge that closes a column shows."""
    rows = graph.graph["rows"]
    columns = len(graph) // rows
    if rows == 1:
        return _circle(graph)
    places = {}
    for i in graph:
        out = (i // columns) / (rows - 1)  # 0 on the inmost ring, 1 on the outmost
        places[i] = _at(2 * math.pi * (i % columns + 1.6 * out * (1 - out)) / columns, 1 + 1.5 * out)
    return places


def _cube(graph: nx.Graph) -> Positions:
    """Each bit of a worker's number moves it by one direction; three make a cube, six a cube of cubes."""
    cube = ((0.0, 1.0), (math.pi / 2, 1.0), (math.pi / 5, 0.55))
    levels = ((1.0, 0.0), (2.3, 0.16), (5.6, 0.08), (13.0, 0.04), (30.0, 0.02))  # size, tilt
    directions = [
        (size * short * math.cos(angle + tilt), size * short * math.sin(angle + tilt))
        for size, tilt in levels
        for angle, short in cube
    ]
    bits = [[k for k in range(len(directions)) if i >> k & 1] for i in graph]
    return {
        i: (sum(directions[k][0] for k in b), sum(directions[k][1] for k in b)) for i, b in enumerate(bits)
    }


def _tree(graph: nx.Graph) -> Positions:
    """Root on top, or in the centre where the lowest level is wide; leaves evenly spaced."""
    children = dict(nx.bfs_successors(graph, 0))
    depth = nx.single_source_shortest_path_length(graph, 0)
    across: dict[int, float] = {}
    for i in nx.dfs_postorder_nodes(nx.bfs_tree(graph, 0), 0):
        below = [across[child] for child in children.get(i, ())]
        across[i] = sum(below) / len(below) if below else sum(j not in children for j in across) + 0.5
    leaves = max(1, sum(i not in children for i in graph))
    if leaves <= 12:
        return {i: (across[i] / leaves, -depth[i] / max(1, max(depth.values()))) for i in graph}
    return {i: _at(2 * math.pi * across[i] / leaves, depth[i]) for i in graph}


def _circle_of_circles(graph: nx.Graph) -> Positions:
    size = graph.graph["group_size"]
    groups = len(graph) // size
    if groups == 1:
        return _circle(graph)
    radius = min(0.45, 0.62 * math.sin(math.pi / groups)) if size > 1 else 0.0
    places = {}
    for i in graph:
        turn = 2 * math.pi * (i // size) / groups
        x, y = _at(turn)
        dx, dy = _at(turn + 2 * math.pi * (i % size + 0.5) / size, radius)
        places[i] = (x + dx, y + dy)
    return places


def _zigzag(graph: nx.Graph) -> Positions:
    """Circle with every other worker further in, so that an edge to the next but one shows."""
    return {i: _at(2 * math.pi * i / len(graph), 0.85 if i % 2 else 1.0) for i in graph}


def _floats(places: Iterable[tuple[int, Any]]) -> Positions:
    return {i: (float(x), float(y)) for i, (x, y) in places}


def _at(turn: float, radius: float = 1.0) -> tuple[float, float]:
    """Point at an angle measured clockwise from the top."""
    return round(radius * math.sin(turn), 9), round(radius * math.cos(turn), 9)


_LAYOUTS: dict[str, Callable[[nx.Graph], Positions]] = {
    "ring": _circle,
    "path": _arc,
    "grid": _lattice,
    "torus": _torus,
    "hypercube": _cube,
    "star": _wheel,
    "complete": _circle,
    "tree": _tree,
    "exponential": _circle,
    "symmetric-exponential": _circle,
    "watts-strogatz": _zigzag,
    "one-peer-exponential": _circle,
    "ring-of-cliques": _circle_of_circles,
    "hierarchical": _circle_of_circles,
}
