"""Graphs and matrices from files, and graphs to files; the suffix names the format."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import numpy as np
from scipy import sparse

from topologies.deferred import Deferred

if TYPE_CHECKING:
    import networkx as nx
    from scipy import io
else:
    nx, io = Deferred("networkx"), Deferred("scipy.io")


def read_graph(path: str | os.PathLike[str], directed: bool = False) -> nx.Graph:
    """Graph of a file, with nodes 0..n-1: GraphML, GML, node-link JSON, edge list or adjacency list.

    Workers are numbered by their labels in natural order: as text, but digits compare as the numbers they
    write (2 before 10, ``node2`` before ``node10``). The label stays on the node as ``label``. Lists do not
    say whether edges have a direction: ``directed`` says it for them. An edge list has a line ``from to`` or
    ``from to weight`` for each edge, and ``#`` starts a comment.
    """
    path = Path(path)
    expected, read, _ = _format(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected {expected}")
    try:
        found = read(path, directed)
    except (nx.NetworkXException, ParseError, KeyError, TypeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: {reason}; expected {expected}") from None
    if len(found) == 0:
        raise ValueError(f"{path}: the graph has no nodes; expected {expected}")
    simple = nx.DiGraph(found) if found.is_directed() else nx.Graph(found)
    if simple.number_of_edges() != found.number_of_edges():
        raise ValueError(f"{path}: some edges are there twice; leave one of each")
    order = sorted(simple, key=_natural)
    graph = simple.__class__(name=path.stem)
    graph.add_nodes_from((i, simple.nodes[label] | {"label": str(label)}) for i, label in enumerate(order))
    number = {label: i for i, label in enumerate(order)}
    graph.add_edges_from((number[a], number[b], data) for a, b, data in simple.edges(data=True))
    return graph


def write_graph(graph: nx.Graph, path: str | os.PathLike[str]) -> None:
    """Write nodes, edges and the edges' weights, in the format the suffix names; lists lose directions."""
    path = Path(path)
    bare = nx.DiGraph() if graph.is_directed() else nx.Graph()
    bare.add_nodes_from(graph)
    for a, b, weight in graph.edges(data="weight"):
        bare.add_edge(a, b, **({} if weight is None else {"weight": weight}))
    _format(path)[2](bare, path)


def read_matrix(path: str | os.PathLike[str]) -> Any:
    """Matrix of a .npy, .npz (scipy sparse), .mtx (Matrix Market), .csv or .txt file."""
    path = Path(path)
    reader = _MATRICES.get(path.suffix.lower())
    if reader is None:
        suffixes = ", ".join(_MATRICES)
        raise ValueError(f"{path}: no matrix format has the suffix {path.suffix!r}; use {suffixes}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a mixing matrix")
    try:
        return reader(path)
    except (ValueError, KeyError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}; expected a mixing matrix as {path.suffix}") from None


def _natural(label: Any) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", str(label))
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]


def _read_edges(path: Path, directed: bool) -> nx.Graph:
    graph = nx.MultiDiGraph() if directed else nx.MultiGraph()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#")[0].replace(",", " ").split()
        if len(words) == 1:
            graph.add_node(words[0])
        elif len(words) == 2:
            graph.add_edge(*words)
        elif len(words) == 3 and _is_number(words[2]):
            graph.add_edge(words[0], words[1], weight=float(words[2]))
        elif words:
            raise ValueError(f"line {number} is {line.strip()!r}")
    return graph


def _write_edges(graph: nx.Graph, path: Path) -> None:
    lines = [" ".join(map(str, (a, b) if w is None else (a, b, w))) for a, b, w in graph.edges(data="weight")]
    path.write_text("\n".join([*map(str, nx.isolates(graph)), *lines, ""]), encoding="utf-8")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_neighbours(path: Path, directed: bool) -> nx.Graph:
    return nx.read_adjlist(path, create_using=nx.DiGraph if directed else nx.Graph)


def _write_neighbours(graph: nx.Graph, path: Path) -> None:
    nx.write_adjlist(graph, path)


def _read_json(path: Path, directed: bool) -> nx.Graph:
    return nx.node_link_graph(json.loads(path.read_text(encoding="utf-8")), edges="edges")


def _write_json(graph: nx.Graph, path: Path) -> None:
    path.write_text(json.dumps(nx.node_link_data(graph, edges="edges")), encoding="utf-8")


def _format(path: Path) -> tuple[str, Callable[[Path, bool], nx.Graph], Callable[[nx.Graph, Path], None]]:
    if path.suffix.lower() not in _GRAPHS:
        raise ValueError(f"{path}: no graph format has the suffix {path.suffix!r}; use {', '.join(_GRAPHS)}")
    return _GRAPHS[path.suffix.lower()]


_EDGES = ("an edge list, a line 'from to' or 'from to weight' for each edge", _read_edges, _write_edges)
_GRAPHS: dict[str, tuple[str, Callable[[Path, bool], nx.Graph], Callable[[nx.Graph, Path], None]]] = {
    ".graphml": (
        "GraphML",
        lambda path, _: nx.read_graphml(path),
        lambda graph, path: nx.write_graphml(graph, path),
    ),
    ".gml": ("GML", lambda path, _: nx.read_gml(path), lambda graph, path: nx.write_gml(graph, path)),
    ".json": ("node-link JSON with 'nodes' and 'edges'", _read_json, _write_json),
    ".edgelist": _EDGES,
    ".edges": _EDGES,
    ".txt": _EDGES,
    ".adjlist": (
        "an adjacency list, a line 'node neighbour ...' a node",
        _read_neighbours,
        _write_neighbours,
    ),
}
_MATRICES: dict[str, Callable[[Path], Any]] = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".npz": sparse.load_npz,
    ".mtx": lambda path: io.mmread(path),
    ".csv": lambda path: np.loadtxt(path, delimiter=",", ndmin=2),
    ".txt": lambda path: np.loadtxt(path, ndmin=2),
}
