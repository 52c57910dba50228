"""Graphs as GraphML and GML, read by networkx after a look at what they hold."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from topologies.deferred import Deferred
from topologies.listed import MOST_EDGES, MOST_NODES, Listed
from topologies.text_files import read_text
from topologies.wording import shown

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Deferred("networkx")

MOST_BYTES = 1 << 27


def read_graphml(path: Path) -> Listed:
    """The graph of a GraphML file; ports and what else networkx has no use for are left out."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has {path.stat().st_size:,} bytes; the most is {MOST_BYTES:,}")
    _check_graphml(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ports, and of keys without a type
        return _listed(nx.read_graphml(path))


def read_gml(path: Path) -> Listed:
    """The graph of a GML file, its nodes named by their labels, or by their ids where labels are not unique."""
    text = read_text(path, MOST_BYTES)
    _check_count(len(re.findall(r"\bnode\s*\[", text)), len(re.findall(r"\bedge\s*\[", text)))
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        return _listed(nx.parse_gml(lines))
    except nx.NetworkXError as error:
        if "label" not in str(error):
            raise
        return _listed(nx.parse_gml(lines, label="id"))


def _listed(graph: nx.Graph) -> Listed:
    listed = Listed(graph.is_directed(), "edge {}")
    for label, data in graph.nodes(data=True):
        listed.node(label, data)
    for place, (a, b, data) in enumerate(graph.edges(data=True)):
        listed.edge(a, b, data, place)
    return listed


def _check_graphml(path: Path) -> None:
    """Its size, and that edges have ends; ElementTree keeps nodes and edges no longer than it reads them."""
    counts = dict.fromkeys(("graph", "node", "edge"), 0)
    nodes: set[str | None] = set()
    ends: list[tuple[int, str | None]] = []
    for _, element in ElementTree.iterparse(path):
        name = element.tag.rpartition("}")[2]
        if name not in counts:
            continue
        counts[name] += 1
        if name == "node":
            nodes.add(element.get("id"))
            if len(nodes) < counts["node"]:
                raise ValueError(f"the node {shown(element.get('id'))} is there twice; give each its own id")
        if name == "edge":
            ends += [(counts[name] - 1, element.get(end)) for end in ("source", "target")]
        element.clear()
        _check_count(counts["node"], counts["edge"])
    if counts["graph"] > 1 and not _is_nested(path):
        raise ValueError(f"it holds {counts['graph']} graphs; leave one")
    for edge, end in ends:
        if end is None or end not in nodes:
            raise ValueError(f"edge {edge} names the node {shown(end)}, which the file lacks; add it")


def _is_nested(path: Path) -> bool:
    """Whether its further graphs are within nodes, as yEd writes groups."""
    return sum(child.tag.endswith("graph") for child in ElementTree.parse(path).getroot()) == 1


def _check_count(nodes: int, edges: int) -> None:
    for count, most, what in ((nodes, MOST_NODES, "nodes"), (edges, 2 * MOST_EDGES, "edges")):
        if count > most:
            raise ValueError(f"it has more than {most:,} {what}, the most of a file; give a smaller graph")
