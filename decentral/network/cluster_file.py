"""A cluster from a file: a small TOML, or a graph whose edges say ``latency_s`` and ``bandwidth_bytes_s``."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import topologies
from decentral.errors import UserError
from decentral.network.cluster import Cluster, EdgeLinks, Link
from decentral.network.measured import Calibrated, Measured, compute_of
from decentral.network.units import BYTES_S, SECONDS, quantity
from decentral.tables import from_table, section
from topologies.listed import MOST_NODES
from topologies.text_files import read_text
from topologies.wording import reason

Quantity = float | str
MOST_BYTES, DEEPEST = 1 << 24, 100
"""Of a cluster file, and parts of a key in it."""


def read_cluster(path: str | os.PathLike[str], workers: int | None = None) -> Cluster:
    """The cluster of :func:`read_calibrated`."""
    return read_calibrated(path, workers).cluster


def read_calibrated(path: str | os.PathLike[str], workers: int | None = None) -> Calibrated:
    """All that a file says of a cluster with ``workers`` workers, which the file may say instead, or as well.

    In a TOML, numbers or texts with units (``decentral.network.units``)::

        workers = 64
        ports = "one"                       # or "multi", "shared"; see decentral.network.cluster
        graph = "links.graphml"             # edges with links of their own, beside this file

        [links]                             # between hosts; without it only the graph's edges are links
        latency_s = "50 us"
        bandwidth_bytes_s = "10 Gb/s"

        [hosts]                             # worker i is on host i // workers
        workers = 8
        latency_s = "1 us"
        bandwidth_bytes_s = "200 Gb/s"

    ``[links]`` may be left out where one host has all workers. ``decentral calibrate`` writes two more tables,
    ``[compute]`` and ``[measured]``: see :mod:`decentral.network.measured`.

    A path with another suffix is a graph file alone, ports "one". In a graph each edge has attributes ``latency_s``
    and ``bandwidth_bytes_s``; an edge without direction is a link both ways. Workers are numbered as ``read_graph``
    does it. Raises UserError that names the file, the value and the rule.
    """
    path = Path(path)
    try:
        if path.suffix.lower() != ".toml":
            return Calibrated(_cluster(path.parent, workers, graph=path.name))
        table = _read(path)
        links = section(table, "links") if "links" in table else None
        hosts = section(table, "hosts") if "hosts" in table else None
        top = {key: value for key, value in table.items() if key not in _TABLES}
        said = from_table(_Top, top, "cluster")
        if workers is not None and said.workers not in (None, workers):
            raise UserError(f"workers = {said.workers} but the run has {workers}; give both the same number")
        between = None if links is None else from_table(_links, links, "links")
        inside = None if hosts is None else from_table(_hosts, hosts, "hosts")
        cluster = _cluster(
            path.parent, said.workers if workers is None else workers, said.ports, said.graph, between, inside
        )
        extra: dict[str, Any] = {
            key: from_table(make, section(table, key), key)
            for key, make in (("compute", compute_of), ("measured", Measured))
            if key in table
        }
        return Calibrated(cluster, **extra)
    except ValueError as error:
        text = str(error)
        raise UserError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def cluster_of_table(table: Mapping[str, Any], workers: int, where: str) -> Cluster:
    """The cluster of a section ``where`` of an experiment: ``latency_s`` and ``bandwidth_bytes_s`` of links between
    hosts (none and ``inf`` if it does not say), ``ports``, and a table ``hosts`` as in a cluster file.
    """
    links = {"latency_s": 0.0, "bandwidth_bytes_s": float("inf")}
    links |= {key: table[key] for key in links if key in table}
    try:
        hosts = from_table(_hosts, section(table, "hosts"), f"{where}.hosts") if "hosts" in table else None
        between = from_table(_links, links, where)
        return _cluster(Path(), workers, table.get("ports", "one"), None, between, hosts)
    except UserError as error:
        text = str(error)
        raise UserError(text if where in text else f"{where}.{text.removeprefix('links.')}") from None


_TABLES = ("links", "hosts", "compute", "measured")


@dataclass(frozen=True)
class _Top:
    workers: int | None = None
    ports: str = "one"
    graph: str | None = None


def _links(latency_s: Quantity, bandwidth_bytes_s: Quantity) -> Link:
    return _link(latency_s, bandwidth_bytes_s, "links.")


def _hosts(workers: int, latency_s: Quantity, bandwidth_bytes_s: Quantity) -> tuple[int, Link]:
    if workers < 1:
        raise UserError(f"hosts.workers = {workers} must be at least 1, the workers of one host")
    return workers, _link(latency_s, bandwidth_bytes_s, "hosts.")


def _link(latency_s: object, bandwidth_bytes_s: object, where: str) -> Link:
    seconds = quantity(latency_s, f"{where}latency_s", SECONDS)
    rate = quantity(bandwidth_bytes_s, f"{where}bandwidth_bytes_s", BYTES_S)
    try:
        return Link(seconds, rate)
    except UserError as error:
        raise UserError(f"{where}{error}") from None


def _cluster(
    folder: Path,
    workers: int | None,
    ports: str = "one",
    graph: str | None = None,
    between: Link | None = None,
    hosts: tuple[int, Link] | None = None,
) -> Cluster:
    alone = hosts is not None and workers is not None and workers <= hosts[0]
    if between is None and graph is None and not alone:
        raise UserError("it describes no links; add [links], or graph = a file whose edges do")
    edges = None
    if graph is not None:
        try:
            found = topologies.read_graph(folder / graph)
        except (
            ValueError
        ) as error:  # its path as the cluster file has it: with both in full a line is too long
            raise UserError(str(error).replace(str(folder / graph), str(graph))) from None
        if workers is not None and len(found) != workers:
            raise UserError(f"graph {graph} has {len(found)} nodes for {workers} workers; give one a worker")
        workers = len(found)
        edges = _edge_links(found)
    if workers is not None and workers > MOST_NODES:
        raise UserError(f"workers = {workers} is more than {MOST_NODES:,}, the most of a cluster; give fewer")
    if workers is None:
        raise UserError("it does not say how many workers there are; add the key workers")
    size, inside = hosts or (1, None)
    return Cluster(workers, tuple(i // size for i in range(workers)), ports, between, inside, edges)


def _edge_links(graph: Any) -> EdgeLinks:
    n, links = len(graph), {}
    for i, j, data in graph.edges(data=True):
        names = f"edge {graph.nodes[i]['label']} -> {graph.nodes[j]['label']}"
        for key in ("latency_s", "bandwidth_bytes_s"):
            if key not in data:
                raise UserError(f"{names} has no attribute {key}; give each edge both")
        link = _link(data["latency_s"], data["bandwidth_bytes_s"], f"{names}: ")
        for a, b in ((i, j),) if graph.is_directed() else ((i, j), (j, i)):
            links[a * n + b] = link
    keys = sorted(links)
    return EdgeLinks(
        np.array(keys, dtype=np.int64),
        np.array([links[k].latency_s for k in keys], dtype=np.float64),
        np.array([links[k].bandwidth_bytes_s for k in keys], dtype=np.float64),
    )


def _read(path: Path) -> dict[str, Any]:
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist; give a cluster file (*.toml, or a graph)")
    try:
        text = read_text(path, MOST_BYTES)
        _check_depth(text)
        return tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a cluster file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {reason(error)}") from None


def _check_depth(text: str) -> None:
    """tomllib takes time that grows with the square of the parts of a dotted key."""
    for number, line in enumerate(text.split("\n"), start=1):
        words = re.split(r"[,=\[\]{}]", line.partition("#")[0].replace(" ", "").replace("\t", ""))
        if max(word.count(".") for word in words) > DEEPEST:
            raise ValueError(f"line {number} has a key of more than {DEEPEST} parts; write it shorter")
