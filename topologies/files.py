"""Graphs from files, and graphs to files; the suffix names the format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topologies.deferred import Deferred
from topologies.places import later
from topologies.wording import one_line, reason, shown

if TYPE_CHECKING:
    import networkx as nx

    from topologies.listed import Listed
else:
    nx = Deferred("networkx")

read_text, refused = (later(f"topologies.text_files:{name}") for name in ("read_text", "refused"))
read_edge_list = later("topologies.edge_lists:read_edge_list")
read_neighbour_list = later("topologies.neighbour_lists:read_neighbour_list")
read_document = later("topologies.graph_documents:read_document")
read_gml, read_graphml = (later(f"topologies.graph_markup:{name}") for name in ("read_gml", "read_graphml"))


def read_graph(path: str | os.PathLike[str], directed: bool = False) -> nx.Graph:
    """Graph of a file, with nodes 0..n-1: GraphML, GML, JSON, edge list (also CSV) or adjacency list.

    Workers are numbered by their labels in natural order: as text, but digits compare as the numbers they
    write (2 before 10, ``node2`` before ``node10``). The label stays on the node as ``label``. Lists do not
    say whether edges have a direction: ``directed`` says it for them. An edge list has a line ``from to`` or
    ``from to weight`` for each edge, and a node without edges is a line of its own. Fields are separated by white
    space, tabs, commas or semicolons; ``#``, ``%`` and ``//`` start a comment. Read as well: a header
    (``source,target,weight``), a first line that counts the nodes, or nodes and edges; what networkx writes
    (``0 1 {'weight': 3.0}``); arrows, ``0 -> 1`` where ``directed`` says so and ``0 -- 1`` where it does not;
    and an undirected graph whose edges are all listed in both directions. JSON is networkx's node-link, adjacency
    or Cytoscape document.

    Raises ValueError, one line that names the file, the line in it and what to do: for what is none of these or
    may be read in two ways, for edges that are there twice, and for more than 100,000 nodes.
    """
    path = Path(path)
    expected, read, _ = _format(path)
    if not os.path.isfile(path):  # a name that is too long is none
        raise refused(path, "no such file", expected)
    try:
        return read(path, directed).graph(path.stem)
    except Exception as error:  # a library's parser fails in any way on a damaged file
        raise refused(path, reason(error), expected) from None


def write_graph(graph: nx.Graph, path: str | os.PathLike[str]) -> None:
    """Write nodes, edges and the edges' weights, in the format the suffix names; lists lose directions."""
    path = Path(path)
    bare = nx.DiGraph() if graph.is_directed() else nx.Graph()
    bare.add_nodes_from(graph)
    for a, b, weight in graph.edges(data="weight"):
        bare.add_edge(a, b, **({} if weight is None else {"weight": weight}))
    _format(path)[2](bare, path)


def _read_edges(path: Path, directed: bool) -> Listed:
    found: Listed = read_edge_list(read_text(path), directed, table=path.suffix.lower() in (".csv", ".tsv"))
    return found


def _write_edges(graph: nx.Graph, path: Path) -> None:
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower(), " ")
    edges = graph.edges(data="weight")
    lines = [separator.join(map(str, (a, b) if w is None else (a, b, w))) for a, b, w in edges]
    # nodes without edges last: a number alone on the first line is a count
    path.write_text("\n".join([*lines, *map(str, nx.isolates(graph)), ""]), encoding="utf-8")


def _read_neighbours(path: Path, directed: bool) -> Listed:
    found: Listed = read_neighbour_list(read_text(path), directed)
    return found


def _write_neighbours(graph: nx.Graph, path: Path) -> None:
    nx.write_adjlist(graph, path)


def _read_json(path: Path, directed: bool) -> Listed:
    found: Listed = read_document(read_text(path), directed)
    return found


def _write_json(graph: nx.Graph, path: Path) -> None:
    path.write_text(json.dumps(nx.node_link_data(graph, edges="edges")), encoding="utf-8")


Reader = Callable[[Path, bool], "Listed"]
Writer = Callable[[Any, Path], None]


def _format(path: Path) -> tuple[str, Reader, Writer]:
    if path.suffix.lower() not in _GRAPHS:
        suffixes = ", ".join(_GRAPHS)
        raise ValueError(
            one_line(f"{path}: no graph format has the suffix {shown(path.suffix)}; use {suffixes}")
        )
    return _GRAPHS[path.suffix.lower()]


_EDGES = ("an edge list, a line 'from to' or 'from to weight' for each edge", _read_edges, _write_edges)
_GRAPHS: dict[str, tuple[str, Reader, Writer]] = {
    ".graphml": (
        "GraphML",
        lambda path, _: read_graphml(path),
        lambda graph, path: nx.write_graphml(graph, path),
    ),
    ".gml": ("GML", lambda path, _: read_gml(path), lambda graph, path: nx.write_gml(graph, path)),
    ".json": ("node-link JSON with 'nodes' and 'edges'", _read_json, _write_json),
    ".edgelist": _EDGES,
    ".edges": _EDGES,
    ".txt": _EDGES,
    ".csv": _EDGES,
    ".tsv": _EDGES,
    ".adjlist": (
        "an adjacency list, a line 'node neighbour ...' a node",
        _read_neighbours,
        _write_neighbours,
    ),
}
