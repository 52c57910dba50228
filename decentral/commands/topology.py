"""Report on a topology: the graph, its mixing matrix and how fast it mixes; facts, a table, a figure."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from scipy import sparse

import topologies
from decentral.errors import UserError, nearest
from decentral.report.graph_drawing import draw, draw_graph
from topologies import Schedule, named
from topologies.wording import shown

__all__ = ["build", "describe", "draw", "draw_graph", "print_table", "report"]

EXACT = 1e-12
"""Distance from exact averaging that counts as rounding."""


def report(
    name: str,
    n: int | None,
    weights: str = "metropolis",
    parameters: Mapping[str, Any] | None = None,
    as_json: bool = False,
    out: Path | None = None,
) -> None:
    """Print a topology's facts as a table or as JSON, and draw it to ``out``."""
    graph, mixing = build(name, n, weights, parameters)
    facts = _facts(name, graph, mixing, weights)
    if out is not None:
        draw(graph, mixing, out)
    if as_json:
        print(json.dumps(facts, indent=2, allow_nan=False))
    else:
        print_table(facts)


def describe(
    name: str, n: int | None, weights: str = "metropolis", parameters: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Facts on the topology ``name`` (a graph, a schedule or a graph's file), ready for JSON."""
    return _facts(name, *build(name, n, weights, parameters), weights)


def build(
    name: str, n: int | None, weights: str = "metropolis", parameters: Mapping[str, Any] | None = None
) -> tuple[nx.Graph, sparse.csr_array | Schedule]:
    """The graph (of a schedule: all edges of its ``rounds``) and its mixing matrix or schedule."""
    given = dict(parameters or {})
    try:
        constructors = named.constructors()
        if name in constructors:
            graph = _call(name, constructors[name], n, given)
            if isinstance(graph, Schedule):
                if weights != "metropolis":
                    raise UserError(
                        f"{name} has its own weights ({shown(weights)} was asked for); leave out the rule"
                    )
                return topologies.union(graph, name), graph
        elif os.path.splitext(name)[1] or os.sep in name:
            _check_names(name, given, ["directed"])
            graph = topologies.read_graph(name, **given)
        else:
            raise UserError(
                f"unknown topology {shown(name)}; {nearest(name, constructors)} (or give a graph's file)"
            )
        if n is not None and n != len(graph):
            raise UserError(f"{name} has {len(graph)} workers, not {n}; leave out n or give {len(graph)}")
        if not os.path.splitext(weights)[1] and weights not in topologies.WEIGHTS:
            raise UserError(f"unknown weights {shown(weights)}; {nearest(weights, topologies.WEIGHTS)}")
        return graph, topologies.mixing_matrix(graph, weights)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None


def print_table(facts: Mapping[str, Any]) -> None:
    """Print facts as a table of two columns that fits 80."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    kind = "schedule" if facts["weights"] == "own" else "graph"
    table = Table(box=SIMPLE_HEAD, title=f"{facts['name']}, {facts['n']} workers", title_justify="left")
    table.add_column(kind, no_wrap=True)
    table.add_column("", overflow="fold")
    for key, value in facts.items():
        if key not in ("name", "n") and value is not None:
            table.add_row(_LABELS[key], _shown(value))
    Console(width=80, highlight=False).print(table)


def _facts(name: str, graph: nx.Graph, mixing: sparse.csr_array | Schedule, weights: str) -> dict[str, Any]:
    schedule = mixing if isinstance(mixing, Schedule) else None
    turns = [mixing.matrix(t) for t in mixing.rounds] if isinstance(mixing, Schedule) else [mixing]
    degrees = [degree for _, degree in (graph.out_degree if graph.is_directed() else graph.degree)]
    sent = np.mean([np.diff(w.tocsc().indptr) - 1 for w in map(_off_zero, turns)], axis=0)
    facts: dict[str, Any] = {
        "name": name,
        "n": len(graph),
        "edges": graph.number_of_edges(),
        "directed": graph.is_directed(),
        "degree_min": min(degrees),
        "degree_mean": float(np.mean(degrees)),
        "degree_max": max(degrees),
        "sent_mean": float(sent.mean()),
        "sent_max": float(sent.max()),
        "weights": weights if schedule is None else "own",
        "symmetric": all(map(topologies.is_symmetric, turns)),
        "doubly_stochastic": all(map(topologies.is_doubly_stochastic, turns)),
        "nonnegative": all(map(topologies.is_nonnegative, turns)),
    }
    return facts | (_of_schedule(schedule) if schedule is not None else _of_matrix(turns[0]))


def _of_schedule(schedule: Schedule) -> dict[str, Any]:
    """How fast it mixes: over a period, and in the mean."""
    absent = dict.fromkeys(
        ("second", "last", "mixing_time_rounds", "mixing_epsilon", "rho", "gap", "period", "exact")
    )
    found = absent | {"mean_contraction": topologies.mean_contraction(schedule)}
    if schedule.period is None:
        return found
    rho = topologies.period_rho(schedule)
    return found | {"rho": rho, "gap": 1 - rho, "period": schedule.period, "exact": rho < EXACT}


def _of_matrix(w: sparse.csr_array) -> dict[str, Any]:
    """How fast it mixes, by its spectrum."""
    spectrum = topologies.spectrum(w)
    return {
        "second": spectrum.second,
        "last": spectrum.last,
        "mixing_time_rounds": spectrum.mixing_time_rounds,
        "mixing_epsilon": spectrum.epsilon,
        "rho": spectrum.rho,
        "gap": spectrum.gap,
        "period": None,
        "exact": spectrum.rho < EXACT,
        "mean_contraction": None,
    }


def _off_zero(w: sparse.csr_array) -> sparse.csr_array:
    """W with a full diagonal and no other zeros stored, so that a column counts who receives."""
    n = w.shape[0]
    return sparse.csr_array((w != 0) + sparse.eye_array(n, dtype=bool))


def _call(name: str, constructor: Callable[..., Any], n: int | None, given: dict[str, Any]) -> Any:
    if n is None:
        raise UserError(f"{name} needs the number of workers; give n, as in -n 16")
    valid = list(inspect.signature(constructor).parameters)[1:]
    _check_names(name, given, valid)
    try:
        return constructor(n, **given)
    except (TypeError, ArithmeticError):
        values = ", ".join(f"{key} = {shown(value)}" for key, value in given.items())
        raise UserError(f"{name} cannot take {values}; give numbers") from None


def _check_names(name: str, given: Mapping[str, Any], valid: list[str]) -> None:
    for key in given:
        if key not in valid:
            remedy = nearest(key, valid) if valid else "it has none"
            raise UserError(f"{name} has no parameter {shown(key)}; {remedy}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_LABELS = {
    "edges": "edges",
    "directed": "directed",
    "degree_min": "smallest degree (out-degree if directed)",
    "degree_mean": "mean degree",
    "degree_max": "largest degree",
    "sent_mean": "vectors a worker sends a round, mean",
    "sent_max": "vectors a worker sends a round, most",
    "weights": "weights",
    "symmetric": "symmetric",
    "doubly_stochastic": "doubly stochastic",
    "nonnegative": "nonnegative",
    "second": "second eigenvalue (modulus if directed)",
    "last": "last eigenvalue",
    "rho": "rho = |W - 11'/n| (of a schedule: of a period)",
    "gap": "gap = 1 - rho",
    "mixing_time_rounds": "mixing time in rounds",
    "mixing_epsilon": "... to shrink disagreement to",
    "period": "period",
    "exact": "averages exactly in a round or period",
    "mean_contraction": "a round shrinks squared disagreement to, mean",
}
