"""Graphs by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from topologies.graphs import (
    complete,
    exponential,
    grid,
    hierarchical,
    hypercube,
    path,
    ring,
    ring_of_cliques,
    star,
    symmetric_exponential,
    torus,
    tree,
)
from topologies.random_graphs import erdos_renyi, geometric, random_regular, watts_strogatz

if TYPE_CHECKING:
    import networkx as nx

TOPOLOGIES: dict[str, Callable[..., nx.Graph]] = {
    "ring": ring,
    "path": path,
    "grid": grid,
    "torus": torus,
    "hypercube": hypercube,
    "star": star,
    "complete": complete,
    "tree": tree,
    "exponential": exponential,
    "symmetric-exponential": symmetric_exponential,
    "random-regular": random_regular,
    "erdos-renyi": erdos_renyi,
    "watts-strogatz": watts_strogatz,
    "geometric": geometric,
    "ring-of-cliques": ring_of_cliques,
    "hierarchical": hierarchical,
}
"""Constructors by name; the first parameter is the number of workers, the others are keys of a TOML table."""
