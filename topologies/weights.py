"""Mixing matrices: how much of each neighbour's vector a worker takes, (W x)_i = sum_j W_ij x_j.

Row i receives: W_ij is not zero where j sends to i, that is on an edge j -> i. Every row sums to one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from topologies.checks import as_csr, check_mixing_matrix
from topologies.deferred import Deferred
from topologies.lanczos import extremes
from topologies.places import later
from topologies.support import is_mutual, received, support
from topologies.wording import shown

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Deferred("networkx")

read_matrix = later("topologies.matrix_files:read_matrix")


@np.errstate(over="ignore", invalid="ignore")  # sums that are not finite are refused by the check
def mixing_matrix(graph: nx.Graph, weights: Any = "metropolis") -> sparse.csr_array:
    """Mixing matrix of a connected graph by the name of a rule, or the user's own, checked against the graph.

    ``weights`` is a name in ``WEIGHTS``, a numpy or scipy matrix, or the path of one (.npy .npz .mtx .csv
    .txt). Worker i is node i where the nodes are 0..n-1, else the i-th node in the graph's own order. Self
    loops and edge attributes are ignored, except by the rule ``edge-weight``. The result is CSR in float64,
    columns ascending, and always stores its diagonal.
    """
    if graph.number_of_nodes() == 0:
        raise ValueError("the graph has no workers; give it at least one node")
    source = ""
    if isinstance(weights, str) and weights in WEIGHTS:
        matrix = WEIGHTS[weights](graph)
    elif isinstance(weights, (str, os.PathLike)):
        if not os.path.splitext(weights)[1]:
            names = ", ".join(WEIGHTS)
            raise ValueError(
                f"unknown weights {shown(str(weights))}; use one of {names}, or the path of a matrix"
            )
        matrix = read_matrix(weights)
        source = f"{weights}: "
    else:
        matrix = weights
    try:
        check_mixing_matrix(matrix, graph, sums="either")
    except ValueError as error:
        raise ValueError(f"{source}{error}") from None
    return as_csr(matrix)


def metropolis(graph: nx.Graph) -> sparse.csr_array:
    """W_ij = 1 / (1 + max(d_i, d_j)), the diagonal takes the rest: symmetric, doubly stochastic.

    On a directed graph only where all in- and out-degrees are equal; W is then not symmetric.
    """
    edges = support(graph)
    incoming, outgoing = edges.sum(axis=1), edges.sum(axis=0)
    degrees = np.concatenate([incoming, outgoing])
    if degrees.min() < degrees.max() and not is_mutual(edges):
        span = f"they run from {degrees.min():.0f} to {degrees.max():.0f}"
        rule = f"metropolis needs a directed graph whose in- and out-degrees are all equal ({span})"
        raise ValueError(f"{rule}; use weights 'uniform' or an undirected graph")
    pairs = edges.tocoo()
    share = 1 / (1 + np.maximum(incoming[pairs.row], incoming[pairs.col]))
    return _close(sparse.csr_array((share, (pairs.row, pairs.col)), shape=edges.shape))


def uniform(graph: nx.Graph) -> sparse.csr_array:
    """W_ij = 1 / (1 + in-degree of i), itself included: rows sum to one, columns only on a regular graph."""
    edges = support(graph)
    return _close(sparse.diags_array(1 / (1 + edges.sum(axis=1))) @ edges)


def max_degree(graph: nx.Graph) -> sparse.csr_array:
    """W_ij = 1 / (1 + largest in-degree): doubly stochastic where all receive as often as they send."""
    edges = support(graph)
    return _close(edges / (1 + edges.sum(axis=1).max()))


def best_constant(graph: nx.Graph) -> sparse.csr_array:
    """W = I - a L with a = 2 / (lambda_2(L) + lambda_max(L)): the smallest rho of all constant edge weights.

    Its diagonal may be negative. Undirected graphs only. Reference: Xiao and Boyd 2004.
    """
    edges = support(graph)
    if not is_mutual(edges):
        raise ValueError("best-constant needs an undirected graph; use weights 'uniform' or 'metropolis'")
    bound = max(1.0, 2 * edges.sum(axis=1).max())
    second, last = extremes(_close(edges / bound))  # of I - L / bound, which is nonnegative definite
    total = (1 - second) + (1 - last)
    return _close(edges * (2 / (bound * total) if total > 0 else 1.0))


def edge_weight(graph: nx.Graph) -> sparse.csr_array:
    """W_ij = the attribute ``weight`` of the edge j -> i; the diagonal takes the rest of its row."""
    from topologies.real_numbers import real  # here: a rank that is handed its matrix needs none of it

    weights: list[float] = []
    for i, j, weight in graph.edges(data="weight"):
        if weight is None:
            rule = f"edge-weight needs a number 'weight' on every edge (edge {i} -> {j} has none)"
            raise ValueError(f"{rule}; add it")
        try:
            weights.append(real(weight))
        except ValueError as error:
            raise ValueError(
                f"edge-weight needs a number on every edge, but that of {i} -> {j} {error}"
            ) from None
    weighted = nx.create_empty_copy(graph)
    weighted.add_weighted_edges_from((i, j, w) for (i, j), w in zip(graph.edges(), weights, strict=True))
    return _close(received(weighted, "weight"))


def push(graph: nx.Graph) -> sparse.csr_array:
    """W_ij = 1 / (1 + out-degree of j), itself included: columns sum to one, as push-sum needs; rows need not."""
    edges = support(graph)
    share = sparse.diags_array(1 / (1 + edges.sum(axis=0)))
    return sparse.csr_array((edges + sparse.eye_array(edges.shape[0])) @ share)


def lazy(rule: Callable[[nx.Graph], sparse.csr_array]) -> Callable[[nx.Graph], sparse.csr_array]:
    """The rule (I + W) / 2: half as fast, but no eigenvalue of a symmetric W is left below zero."""

    def halved(graph: nx.Graph) -> sparse.csr_array:
        return (sparse.eye_array(graph.number_of_nodes(), format="csr") + rule(graph)) / 2

    return halved


_RULES: dict[str, Callable[[nx.Graph], sparse.csr_array]] = {
    "metropolis": metropolis,
    "uniform": uniform,
    "max-degree": max_degree,
    "best-constant": best_constant,
    "edge-weight": edge_weight,
    "push": push,
}
WEIGHTS = {
    **_RULES,
    "lazy": lazy(metropolis),
    **{f"lazy-{name}": lazy(rule) for name, rule in _RULES.items()},
}
"""Rules by name; ``lazy`` is ``lazy-metropolis``."""


def _close(off_diagonal: sparse.csr_array) -> sparse.csr_array:
    """Give the diagonal what the row lacks to sum to one."""
    return sparse.csr_array(off_diagonal + sparse.diags_array(1 - off_diagonal.sum(axis=1)))
