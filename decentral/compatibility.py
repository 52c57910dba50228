"""``decentral list compatibility``: which method diverges on which topology, computed from spectra."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

import topologies
from decentral.algorithms import ALGORITHMS
from decentral.stability import refuses

WORKERS = 16


def compatibility(n: int = WORKERS) -> dict[str, dict[str, float]]:
    """Method, with its default settings -> topology of n workers -> growth a round of differences; where it is refused.

    Weights are "metropolis", or "uniform" where the graph is directed. NaN: an eigenvalue is below what it needs.
    """
    schedules = _schedules(n)
    table: dict[str, dict[str, float]] = {}
    for name, kind in ALGORITHMS.items():
        method: Any = kind()
        found = {topology: refuses(method, schedule) for topology, schedule in schedules.items()}
        table[name] = {topology: refused[0] for topology, refused in found.items() if refused is not None}
    return table


def print_compatibility() -> None:
    """The table."""
    every = len(topologies.TOPOLOGIES) + len(topologies.SCHEDULES)
    table = Table(
        title=f"compatibility, {WORKERS} workers", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("method", style="bold", no_wrap=True)
    table.add_column("refused on (growth of differences a round; - where an eigenvalue is too low)")
    for name, refused in compatibility().items():
        cells = [
            f"{topology} {'-' if growth != growth else f'{growth:.3g}'}"
            for topology, growth in refused.items()
        ]
        table.add_row(name, ", ".join(cells) or f"none of {every}")
    console = Console()
    console.print(table)
    console.print(
        "default settings; weights metropolis, or uniform where the graph is directed; "
        "`algorithm.allow_unstable = true` runs them regardless"
    )


def _schedules(n: int) -> dict[str, topologies.Schedule]:
    found = {}
    for name, build in topologies.TOPOLOGIES.items():
        graph = build(n)
        weights = "uniform" if graph.is_directed() else "metropolis"
        found[name] = topologies.constant(topologies.mixing_matrix(graph, weights))
    return found | {name: build(n) for name, build in topologies.SCHEDULES.items()}
