"""Who talks to whom, and with what weight: graphs, mixing matrices, their spectra, and schedules of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from topologies.checks import check_mixing_matrix, is_doubly_stochastic, is_nonnegative, is_symmetric
from topologies.files import read_graph, write_graph
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
from topologies.schedules import (
    SCHEDULES,
    Schedule,
    constant,
    cyclic,
    one_peer_exponential,
    period_rho,
    product,
)
from topologies.spectra import Spectrum, eigenvalues, spectral_gap, spectrum
from topologies.weights import WEIGHTS, mixing_matrix

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

__all__ = [
    "SCHEDULES",
    "TOPOLOGIES",
    "WEIGHTS",
    "Schedule",
    "Spectrum",
    "check_mixing_matrix",
    "complete",
    "constant",
    "cyclic",
    "eigenvalues",
    "erdos_renyi",
    "exponential",
    "geometric",
    "grid",
    "hierarchical",
    "hypercube",
    "is_doubly_stochastic",
    "is_nonnegative",
    "is_symmetric",
    "mixing_matrix",
    "one_peer_exponential",
    "path",
    "period_rho",
    "product",
    "random_regular",
    "read_graph",
    "ring",
    "ring_of_cliques",
    "spectral_gap",
    "spectrum",
    "star",
    "symmetric_exponential",
    "torus",
    "tree",
    "watts_strogatz",
    "write_graph",
]
