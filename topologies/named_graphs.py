"""Graphs by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from topologies.places import all_loaded

if TYPE_CHECKING:
    import networkx as nx

TOPOLOGIES: dict[str, Callable[..., nx.Graph]] = all_loaded(
    {
        "ring": "topologies.graphs:ring",
        "path": "topologies.graphs:path",
        "grid": "topologies.graphs:grid",
        "torus": "topologies.graphs:torus",
        "hypercube": "topologies.graphs:hypercube",
        "star": "topologies.graphs:star",
        "complete": "topologies.graphs:complete",
        "tree": "topologies.graphs:tree",
        "exponential": "topologies.graphs:exponential",
        "symmetric-exponential": "topologies.graphs:symmetric_exponential",
        "random-regular": "topologies.random_graphs:random_regular",
        "erdos-renyi": "topologies.random_graphs:erdos_renyi",
        "watts-strogatz": "topologies.random_graphs:watts_strogatz",
        "geometric": "topologies.random_graphs:geometric",
        "ring-of-cliques": "topologies.graphs:ring_of_cliques",
        "hierarchical": "topologies.graphs:hierarchical",
    }
)
"""Constructors by name; the first parameter is the number of workers, the others are keys of a TOML table."""
