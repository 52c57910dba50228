"""Who talks to whom, and with what weight: graphs, mixing matrices, their spectra, and schedules of them."""

from __future__ import annotations

from collections.abc import Callable

from topologies.activation import matcha, matcha_of
from topologies.base_k import base_k
from topologies.checks import (
    check_mixing_matrix,
    is_column_stochastic,
    is_doubly_stochastic,
    is_nonnegative,
    is_row_stochastic,
    is_symmetric,
)
from topologies.edge_colouring import matchings
from topologies.equi import equi_dynamic, equi_static
from topologies.file_schedules import from_files
from topologies.files import read_graph, write_graph
from topologies.finite_time import k_peer_exponential, one_peer_hypercube
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
from topologies.named_graphs import TOPOLOGIES
from topologies.places import all_loaded
from topologies.random_graphs import erdos_renyi, geometric, random_regular, watts_strogatz
from topologies.random_schedules import one_peer_exponential_random, periodic_averaging, random_matching
from topologies.schedules import (
    Schedule,
    constant,
    cyclic,
    mean_contraction,
    one_peer_exponential,
    period_rho,
    product,
    union,
)
from topologies.spectra import Spectrum, eigenvalues, spectral_gap, spectrum
from topologies.weights import WEIGHTS, mixing_matrix

SCHEDULES: dict[str, Callable[..., Schedule]] = all_loaded(
    {
        "one-peer-exponential": "topologies.schedules:one_peer_exponential",
        "one-peer-exponential-random": "topologies.random_schedules:one_peer_exponential_random",
        "k-peer-exponential": "topologies.finite_time:k_peer_exponential",
        "one-peer-hypercube": "topologies.finite_time:one_peer_hypercube",
        "base-k": "topologies.base_k:base_k",
        "equi-static": "topologies.equi:equi_static",
        "equi-dynamic": "topologies.equi:equi_dynamic",
        "random-matching": "topologies.random_schedules:random_matching",
        "matcha": "topologies.activation:matcha",
    }
)
"""Schedules by name; the first parameter is the number of workers, the others are keys of a TOML table."""

__all__ = [
    "SCHEDULES",
    "TOPOLOGIES",
    "WEIGHTS",
    "Schedule",
    "Spectrum",
    "base_k",
    "check_mixing_matrix",
    "complete",
    "constant",
    "cyclic",
    "eigenvalues",
    "equi_dynamic",
    "equi_static",
    "erdos_renyi",
    "exponential",
    "from_files",
    "geometric",
    "grid",
    "hierarchical",
    "hypercube",
    "is_column_stochastic",
    "is_doubly_stochastic",
    "is_nonnegative",
    "is_row_stochastic",
    "is_symmetric",
    "k_peer_exponential",
    "matcha",
    "matcha_of",
    "matchings",
    "mean_contraction",
    "mixing_matrix",
    "one_peer_exponential",
    "one_peer_exponential_random",
    "one_peer_hypercube",
    "path",
    "period_rho",
    "periodic_averaging",
    "product",
    "random_matching",
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
    "union",
    "watts_strogatz",
    "write_graph",
]
