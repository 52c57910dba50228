"""The graphs that runs were on, made again from their resolved ``[topology]`` tables: beside a figure, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

import topologies
from decentral.report.columns import field_label, group_label, value_label
from decentral.report.results import Experiment, Value, grouped
from topologies import named


def graph_of(topology: Mapping[str, Any]) -> nx.Graph:
    """The graph of a resolved ``[topology]`` table; of a schedule, all edges of its rounds.

    Raises ValueError for a file that is gone or holds other workers, LookupError for a name that is unknown.
    """
    keys = {key: value for key, value in topology.items() if key not in ("name", "workers", "weights")}
    name, workers = topology["name"], topology["workers"]
    if name == "files":
        keys["weights"] = topology["weights"]  # the rule of each round's matrix, whose entries are its edges
    read = named.READERS.get(name)
    built = named.build(name, workers, **keys) if read is None else read(**keys)
    graph = topologies.union(built) if isinstance(built, topologies.Schedule) else built
    if len(graph) != workers:
        raise ValueError(f"topology {name!r} has {len(graph)} workers by now, and the run had {workers}")
    return graph


def graphs_of(experiment: Experiment) -> dict[str, nx.Graph]:
    """One graph for each topology that was swept, by its words; empty where the graphs cannot be made here."""
    fields, tables = _tables(experiment)
    try:
        return {group_label(fields, values): graph_of(table) for values, table in tables.items()}
    except (ImportError, LookupError, TypeError, ValueError):
        return {}


def graph_table(experiment: Experiment) -> list[dict[str, str]]:
    """Size, degrees and spectral gap of each topology; nothing where its graph cannot be made here."""
    fields, tables = _tables(experiment)
    try:
        return [_facts(fields, values, table) for values, table in tables.items()]
    except (ImportError, LookupError, TypeError, ValueError):
        return []


def _tables(experiment: Experiment) -> tuple[list[str], dict[tuple[Value, ...], Mapping[str, Any]]]:
    """The fields of the topology that were swept, or its name; and the [topology] of the first run of each."""
    fields = [f for f in experiment.swept if f.startswith("topology.")] or ["topology.name"]
    groups = grouped([run for run in experiment.runs if "topology" in run.config], fields)
    return fields, {values: runs[0].config["topology"] for values, runs in groups.items()}


def _facts(fields: list[str], values: tuple[Value, ...], table: Mapping[str, Any]) -> dict[str, str]:
    graph = graph_of(table)
    degrees = [d for _, d in (graph.out_degree() if graph.is_directed() else graph.degree())]
    facts = {field_label(f): value_label(v) for f, v in zip(fields, values, strict=True)}
    facts |= {"workers": str(graph.number_of_nodes()), "edges": str(graph.number_of_edges())}
    low, high = min(degrees), max(degrees)
    facts["neighbours"] = str(low) if low == high else f"{low} to {high}"
    facts["weights"] = str(table.get("weights", "its own"))  # of a schedule, or of a method that makes one
    if "weights" in table and table["name"] != "files":
        w = topologies.mixing_matrix(graph, facts["weights"])
        facts["spectral gap 1 − ρ"] = f"{topologies.spectral_gap(w):.4g}"
    return facts
