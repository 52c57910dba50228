"""Graphs as JSON: networkx's node-link, adjacency and Cytoscape documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from topologies.listed import Listed
from topologies.wording import shown


def read_document(text: str, directed: bool) -> Listed:
    """The graph of a document; one that does not say ``directed`` is what the argument says.

    Raises ValueError that names the place in the document.
    """
    found = json.loads(text)
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}, not an object with 'nodes' and 'edges'")
    said = found.get("directed", directed)
    if not isinstance(said, bool):
        raise ValueError(f"directed is {shown(said)}; write true or false")
    if "elements" in found:
        return _cytoscape(found["elements"], said)
    if "adjacency" in found:
        return _adjacency(found, said)
    names = [name for name in ("edges", "links") if name in found]
    if "nodes" not in found or len(names) != 1:
        raise ValueError("it needs 'nodes', and either 'edges' or 'links'")
    listed = Listed(said, names[0] + "[{}]")
    for place, node in enumerate(_objects(found, "nodes")):
        _add_node(listed, node.get("id", place), node, place)
    for place, edge in enumerate(_objects(found, names[0])):
        _add_edge(listed, edge.get("source"), edge.get("target"), edge, place)
    return listed


def _adjacency(found: Mapping[str, Any], directed: bool) -> Listed:
    listed = Listed(directed, "adjacency, edge {}")
    heads = []
    for place, node in enumerate(_objects(found, "nodes")):
        heads.append(node.get("id", place))
        _add_node(listed, heads[-1], node, place)
    rows = _list(found, "adjacency")
    if len(rows) != len(heads):
        raise ValueError(f"'adjacency' has {len(rows)} lists for {len(heads)} nodes; give one for each")
    place = 0
    for i, head in enumerate(heads):
        for edge in _objects({f"adjacency[{i}]": rows[i]}, f"adjacency[{i}]"):
            _add_edge(listed, head, edge.get("id"), edge, place)
            place += 1
    return listed


def _cytoscape(found: Any, directed: bool) -> Listed:
    if not isinstance(found, Mapping):
        raise ValueError("'elements' needs 'nodes' and 'edges'")
    listed = Listed(directed, "elements.edges[{}]")
    for place, element in enumerate(_objects(found, "nodes")):
        node = _data(element, f"nodes[{place}]")
        _add_node(listed, node.get("id", place), node, place)
    for place, element in enumerate(_objects(found, "edges")):
        edge = _data(element, f"edges[{place}]")
        _add_edge(listed, _text(edge.get("source")), _text(edge.get("target")), edge, place)
    return listed


def _text(label: Any) -> Any:
    """Cytoscape's ends of edges, numbers or texts, name nodes whose ids are texts."""
    return str(label) if isinstance(label, int) and not isinstance(label, bool) else label


def _data(element: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    data = element.get("data")
    if not isinstance(data, Mapping):
        raise ValueError(f"{place} has no object 'data'")
    return {key: _text(value) if key == "id" else value for key, value in data.items()}


def _add_node(listed: Listed, label: Any, data: Mapping[str, Any], place: int) -> None:
    label = _label(label, f"nodes[{place}]")
    if label in listed.nodes:
        raise ValueError(f"nodes[{place}] has the id {shown(label)} of a node before; give each its own")
    listed.node(label, {key: value for key, value in data.items() if key != "id"})


def _add_edge(listed: Listed, a: Any, b: Any, data: Mapping[str, Any], place: int) -> None:
    where = listed.where.format(place)
    ends = _label(a, where), _label(b, where)
    for end in ends:
        if end not in listed.nodes:
            raise ValueError(f"{where} names the node {shown(end)}, which 'nodes' lacks; add it")
    rest = {key: value for key, value in data.items() if key not in ("source", "target", "id", "key")}
    listed.edge(*ends, rest, place)


def _label(label: Any, where: str) -> Any:
    if (
        isinstance(label, list)
        and len(label) <= 8
        and all(isinstance(one, str | int | float) for one in label)
    ):
        return tuple(label)  # as networkx names the nodes of a grid
    if isinstance(label, str | int | float) and len(str(label)) <= 1000:
        return label
    raise ValueError(f"{where} names a node {shown(label)}; name nodes by a text or a number")


def _list(found: Mapping[str, Any], key: str) -> list[Any]:
    values = found.get(key, [])
    if not isinstance(values, list):
        raise ValueError(f"'{key}' is {shown(values)}; write a list")
    return values


def _objects(found: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    values = _list(found, key)
    for place, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise ValueError(f"{key}[{place}] is {shown(value)}; write an object")
    return values
