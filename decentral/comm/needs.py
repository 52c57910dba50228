"""What a method may need of the matrices that it mixes with, by name.

By default rows must sum to one: mixing then leaves workers that agree as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import topologies
from topologies import Schedule


def unmet_of(names: Iterable[str], schedule: Schedule) -> tuple[str, str] | None:
    """(what is needed and the schedule is not, the remedy) for the first of these needs that is not met; else None."""
    for name in names:
        rule, remedy, holds = _NEEDS[name]
        if not holds(schedule):
            return rule, remedy
    return None


def _every(holds: Callable[[Any], bool]) -> Callable[[Schedule], bool]:
    return lambda schedule: all(holds(schedule.matrix(t)) for t in schedule.rounds)


def _is_tree(schedule: Schedule) -> bool:
    edges = topologies.union(schedule).to_directed().edges  # weights alone may make the union directed
    return len(edges) == 2 * (schedule.n - 1) and all((j, i) in edges for i, j in edges)


_NEEDS: Mapping[str, tuple[str, str, Callable[[Schedule], bool]]] = {
    "rows": (
        "rows of W that sum to 1",
        "use push-sum or push-diging, or topology.weights = metropolis or uniform",
        _every(topologies.is_row_stochastic),
    ),
    "columns": (
        "columns of W that sum to 1, and on this graph these weights have others",
        "use topology.weights = push",
        _every(topologies.is_column_stochastic),
    ),
    "static": (
        "the same W in every round",
        "use a graph that does not change",
        lambda schedule: schedule.period == 1,
    ),
    "symmetric": (
        "a symmetric W",
        "use an undirected graph with topology.weights = metropolis",
        _every(topologies.is_symmetric),
    ),
    "tree": (
        "a tree: undirected, connected, without a cycle",
        "use topology.name = path, star or tree",
        _is_tree,
    ),
}
