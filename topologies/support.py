"""Support of a mixing matrix: which row of it may receive from which worker of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from topologies.deferred import Deferred

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Deferred("networkx")


def workers(graph: nx.Graph) -> list[Any]:
    """Nodes in the order of the rows: 0..n-1 where those are the nodes, else as the graph lists them."""
    order = list(range(graph.number_of_nodes()))
    return order if set(graph) == set(order) else list(graph)


def support(graph: nx.Graph) -> sparse.csr_array:
    """Matrix of ones where an edge j -> i lets row i receive from j; self loops left out."""
    return received(graph, None).astype(bool).astype(np.float64)


def received(graph: nx.Graph, weight: str | None) -> sparse.csr_array:
    """What row i receives from j: the attribute ``weight`` of the edge j -> i, or the number of edges."""
    sent = sparse.coo_array(nx.to_scipy_sparse_array(graph, workers(graph), weight=weight, dtype=np.float64))
    edge = (sent.row != sent.col) & (sent.data != 0)
    return sparse.csr_array((sent.data[edge], (sent.col[edge], sent.row[edge])), shape=sent.shape)


def is_mutual(matrix: sparse.csr_array) -> bool:
    """Whether whoever receives from another also sends to it."""
    pattern = matrix != 0
    return bool((pattern != pattern.T).nnz == 0)
