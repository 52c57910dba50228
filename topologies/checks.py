"""What a mixing matrix must be; every refusal is one line that names the place, the rule and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from topologies.support import support

if TYPE_CHECKING:
    import networkx as nx

TOLERANCE = 1e-9
"""How far a row sum, a column sum or a pair of mirrored weights may be off."""


def as_csr(matrix: Any) -> sparse.csr_array:
    """The same numbers as CSR in float64: columns ascending, no zeros stored but on the diagonal."""
    if not sparse.issparse(matrix):
        matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        size = " x ".join(map(str, matrix.shape)) or "a single number"
        raise ValueError(
            f"the mixing matrix is {size}; it must be square, a row and a column for each worker"
        )
    if matrix.dtype.kind not in "biuf":
        raise ValueError(f"the mixing matrix holds {matrix.dtype}; it must hold real numbers")
    given = sparse.coo_array(matrix)
    kept = given.data != 0
    n = np.arange(matrix.shape[0])
    rows, columns = np.append(given.row[kept], n), np.append(given.col[kept], n)
    data = np.append(given.data[kept].astype(np.float64), np.zeros(n.size))
    result = sparse.csr_array((data, (rows, columns)), shape=matrix.shape)
    result.sum_duplicates()
    return result


@np.errstate(over="ignore", invalid="ignore")  # sums that are not finite are refused below
def check_mixing_matrix(
    matrix: Any,
    graph: nx.Graph | None = None,
    *,
    doubly_stochastic: bool = False,
    symmetric: bool = False,
    connected: bool = True,
    sums: Literal["rows", "columns", "either"] = "rows",
) -> None:
    """Raise ValueError unless the rows sum to one and whatever else is asked for holds.

    ``sums``: what has to sum to one; columns do in the matrices of push-sum, which keep the sum of what is mixed.
    Negative weights are allowed, for the fastest constant weights may need them; see ``is_nonnegative``.
    """
    w = as_csr(matrix)
    if not np.isfinite(w.data).all():
        row = int(w.tocoo().row[~np.isfinite(w.data)][0])
        raise ValueError(f"row {row} of the mixing matrix holds a number that is not finite; replace it")
    if sums == "columns":
        _check_sums(w.sum(axis=0), "column", "every column must sum to 1: use weights 'push'")
    elif sums == "rows" or not is_column_stochastic(w):
        _check_sums(w.sum(axis=1), "row", "every row must sum to 1: divide it by its sum")
    if graph is not None:
        _check_support(w, graph)
    if doubly_stochastic:
        remedy = "a doubly stochastic matrix needs columns that sum to 1: use weights 'metropolis'"
        _check_sums(w.sum(axis=0), "column", remedy)
    if symmetric and not is_symmetric(w):
        i, j = _first(abs(w - w.T) > TOLERANCE)
        pair = f"W[{i}, {j}] = {w[i, j]:.12g} but W[{j}, {i}] = {w[j, i]:.12g}"
        raise ValueError(f"{pair}; the mixing matrix must be symmetric: use weights 'metropolis'")
    if connected:
        _check_connected(w)


def is_symmetric(matrix: Any) -> bool:
    """Whether W = W'."""
    w = as_csr(matrix)
    return bool(abs(w - w.T).max() <= TOLERANCE)


def is_doubly_stochastic(matrix: Any) -> bool:
    """Whether rows and columns sum to one, so that mixing keeps the mean; negative weights do not matter."""
    w = as_csr(matrix)
    return _sums_to_one(w, 0) and _sums_to_one(w, 1)


def is_column_stochastic(matrix: Any) -> bool:
    """Whether columns sum to one, so that mixing keeps the sum over the workers."""
    return _sums_to_one(as_csr(matrix), 0)


def is_row_stochastic(matrix: Any) -> bool:
    """Whether rows sum to one, so that mixing leaves workers that agree as they are."""
    return _sums_to_one(as_csr(matrix), 1)


def is_nonnegative(matrix: Any) -> bool:
    """Whether no weight is negative."""
    return bool(as_csr(matrix).data.min() >= -TOLERANCE)


def _sums_to_one(w: sparse.csr_array, axis: int) -> bool:
    return bool(abs(w.sum(axis=axis) - 1).max() <= TOLERANCE)


def _check_sums(sums: np.ndarray, line: str, remedy: str) -> None:
    wrong = np.flatnonzero(~(abs(sums - 1) <= TOLERANCE))  # a sum may be NaN
    if wrong.size:
        i = int(wrong[0])
        raise ValueError(f"{line} {i} of the mixing matrix sums to {sums[i]:.12g}; {remedy}")


def _check_support(w: sparse.csr_array, graph: nx.Graph) -> None:
    if w.shape[0] != len(graph):
        size = f"the mixing matrix has {w.shape[0]} workers but the graph has {len(graph)}"
        raise ValueError(f"{size}; give both the same number")
    allowed = support(graph) + sparse.eye_array(len(graph))
    stray = abs(w) - abs(w) * (allowed != 0)
    if stray.max() > 0:
        i, j = _first(stray > 0)
        rule = f"W[{i}, {j}] = {w[i, j]:.12g} but the graph has no edge {j} -> {i}"
        raise ValueError(f"{rule}; add the edge or set the weight to zero")


def _check_connected(w: sparse.csr_array) -> None:
    count, group = csgraph.connected_components(w != 0, directed=True, connection="strong")
    if count > 1:
        far = int(np.flatnonzero(group != group[0])[0])
        rule = f"workers 0 and {far} cannot both reach each other ({count} separate parts)"
        raise ValueError(f"the graph is not connected: {rule}; add edges between the parts")


def _first(mask: sparse.csr_array) -> tuple[int, int]:
    found = sparse.coo_array(mask)
    k = np.lexsort((found.col, found.row))[0]
    return int(found.row[k]), int(found.col[k])
