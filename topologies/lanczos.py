"""Ends of a spectrum without a dense matrix: Lanczos where the graph expands, shift-invert where it does not.

Lanczos needs some 1 / sqrt(gap) products and so does not end on long thin graphs (paths, grids, trees);
there a sparse factorisation is cheap. On expanders the factorisation fills up, but Lanczos ends. The start
vector is always the same: the same matrix gives the same digits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, eigsh, splu

DENSE = 1024
"""Workers up to which dense linear algebra is used instead."""

PATIENCE = 400
"""Products before a thin graph is factorised."""

LIMIT = 4000
"""Products at most; what has not converged then is off by a part of the spacing of the eigenvalues."""

THIN = 0.01
"""A graph whose gap is not above this is thin: its factorisation stays sparse."""

RESIDUAL = 1e-8
"""Norm of the residual that ends Lanczos; the eigenvalue's error is of the order of its square."""


@dataclass(frozen=True)
class Ends:
    """Smallest and largest eigenvalue found, and whether each has converged."""

    low: float
    high: float
    low_done: bool
    high_done: bool


def extremes(a: sparse.csr_array) -> tuple[float, float]:
    """(lambda_2, lambda_n) of a symmetric A with A 1 = 1, the eigenvalue of the vector 1 left out."""
    n = a.shape[0]
    if n == 1:
        return 0.0, 0.0
    if n <= DENSE:  # adding a large multiple of 11' moves the eigenvalue of the vector 1 above all others
        values = np.linalg.eigvalsh(a.toarray() + 4 * float(abs(a).sum(axis=1).max()) / n)
        return float(values[-2]), float(values[0])
    ends = lanczos(lambda x: a @ x, n, PATIENCE)
    if not (ends.low_done and ends.high_done) and 1 - ends.high > THIN:
        ends = lanczos(lambda x: a @ x, n, LIMIT)
        return ends.high, ends.low
    high = ends.high if ends.high_done else _beyond(a, drop=1.0)
    return high, ends.low if ends.low_done else -_beyond(-a, drop=None)


def lanczos(apply: Callable[[np.ndarray], np.ndarray], n: int, products: int) -> Ends:
    """Ends of the spectrum of a symmetric operator on the vectors of mean zero.

    Plain three-term recurrence. The basis loses its orthogonality, which repeats eigenvalues but does not
    move the ends. The mean is taken out of each vector again, for rounding brings it back.
    """
    v, previous = np.random.default_rng(0).standard_normal(n), np.zeros(n)
    v -= v.mean()
    v /= np.linalg.norm(v)
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        u = apply(v)
        diagonal.append(float(u @ v))
        u -= diagonal[-1] * v
        if beside:
            u -= beside[-1] * previous
        u -= u.mean()
        beside.append(float(np.linalg.norm(u)))
        exhausted = beside[-1] < 1e-13
        if exhausted or len(diagonal) % 50 == 0:
            ends = _ritz(np.array(diagonal), np.array(beside))
            if exhausted or (ends.low_done and ends.high_done) or len(diagonal) >= products:
                return ends
        previous, v = v, u / beside[-1]


def _ritz(diagonal: np.ndarray, beside: np.ndarray) -> Ends:
    """Ends of the tridiagonal matrix; the last entry of an eigenvector gives its residual."""
    found = []
    for k in (0, diagonal.size - 1):
        value, vector = eigh_tridiagonal(diagonal, beside[:-1], select="i", select_range=(k, k))
        found.append((float(value[0]), bool(abs(vector[-1, 0]) * beside[-1] < RESIDUAL)))
    (low, low_done), (high, high_done) = found
    return Ends(low, high, low_done, high_done)


def _beyond(a: sparse.csr_array, drop: float | None) -> float:
    """Largest eigenvalue of A, or the second if the largest is ``drop``, by shift-invert from above them all."""
    n, diagonal = a.shape[0], a.diagonal()
    bound = float((diagonal + abs(a).sum(axis=1) - abs(diagonal)).max())  # where Gershgorin's circles end
    shift = bound + 1e-9
    # Positive definite: no pivoting, and an ordering that keeps it symmetric.
    above = sparse.csc_array(shift * sparse.eye_array(n) - a)
    options = {"SymmetricMode": True}
    factor = splu(above, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    inverse = LinearOperator(a.shape, matvec=lambda x: -factor.solve(x), dtype=np.float64)
    fixed: dict[str, Any] = {"v0": np.random.default_rng(0).standard_normal(n)}
    if "rng" in inspect.signature(eigsh).parameters:  # scipy 1.17; earlier ones are deterministic without
        fixed["rng"] = np.random.default_rng(0)
    values = np.sort(eigsh(a, 2, sigma=shift, OPinv=inverse, return_eigenvectors=False, **fixed))[::-1]
    return float(values[1] if drop is not None and abs(values[0] - drop) < 1e-13 else values[0])
