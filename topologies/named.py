"""From a topology's name and its keys to a graph or a schedule, and from that to mixing matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from topologies import SCHEDULES, TOPOLOGIES, Schedule, constant, from_files, mixing_matrix, read_graph

if TYPE_CHECKING:
    import networkx as nx

READERS: dict[str, Callable[..., nx.Graph | Schedule]] = {"file": read_graph, "files": from_files}
"""What makes a topology of files, by the name that stands for it; the files say how many workers there are."""


def constructors() -> dict[str, Callable[..., nx.Graph | Schedule]]:
    """Of graphs and of schedules, by name; the first parameter is n, the number of workers, the others are keys."""
    return {**TOPOLOGIES, **SCHEDULES}


def build(name: str, n: int, **keys: Any) -> nx.Graph | Schedule:
    """The graph or the schedule of n workers. Raises ValueError for numbers that it cannot have."""
    return constructors()[name](n, **keys)


def mixing(
    built: nx.Graph | Schedule,
    weights: str | None = None,
    make: Callable[[nx.Graph], Schedule] | None = None,
) -> Schedule:
    """The mixing matrices of a graph, W in every round; a schedule is what it is.

    ``weights``: a rule in ``WEIGHTS`` or a matrix's file; without one "metropolis", or "uniform" of a directed graph.
    ``make``: what makes matrices of a graph in place of a rule. Raises ValueError for those that do not fit the graph.
    """
    if isinstance(built, Schedule):
        return built
    if make is not None:
        return make(built)
    return constant(mixing_matrix(built, weights or ("uniform" if built.is_directed() else "metropolis")))
