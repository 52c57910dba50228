"""Ends of a spectrum without a dense matrix: Lanczos where the graph expands, shift-invert where it does not.

Lanczos needs some 1 / sqrt(gap) products and so does not end on long thin graphs (paths, grids, trees);
there a sparse factorisation is cheap. On expanders the factorisation fills up, but Lanczos ends. The start
vector is always the same: the same matrix gives the same digits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    """Smallest and largest eigenvalue found, with the norms of their residuals."""

    low: float
    high: float
    low_residual: float
    high_residual: float

    @property
    def done(self) -> bool:
        """Whether both have converged."""
        return max(self.low_residual, self.high_residual) < RESIDUAL


def extremes(a: sparse.csr_array) -> tuple[float, float]:
    """(lambda_2, lambda_n) of a symmetric A with A 1 = 1, the eigenvalue of the vector 1 left out."""
    n = a.shape[0]
    if n == 1:
        return 0.0, 0.0
    if n <= DENSE:  # adding a large multiple of 11' moves the eigenvalue of the vector 1 above all others
        values = np.linalg.eigvalsh(a.toarray() + 4 * float(abs(a).sum(axis=1).max()) / n)
        return float(values[-2]), float(values[0])
    ends = lanczos(lambda x: a @ x, n, PATIENCE)
    if not ends.done and 1 - ends.high > THIN:
        ends = lanczos(lambda x: a @ x, n, LIMIT)
        return ends.high, ends.low
    if ends.high_residual >= RESIDUAL:
        ends = replace(ends, high=_beyond(a, max(1.0, ends.high), drop=1.0))
    if ends.low_residual >= RESIDUAL:
        ends = replace(ends, low=-_beyond(-a, ends.low_residual - ends.low, drop=None))
    return ends.high, ends.low


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
            if exhausted or ends.done or len(diagonal) >= products:
                return ends
        previous, v = v, u / beside[-1]


def _ritz(diagonal: np.ndarray, beside: np.ndarray) -> Ends:
    """Ends of the tridiagonal matrix; the last entry of an eigenvector gives its residual."""
    found = []
    for k in (0, diagonal.size - 1):
        value, vector = eigh_tridiagonal(diagonal, beside[:-1], select="i", select_range=(k, k))
        found.append((float(value[0]), float(abs(vector[-1, 0]) * beside[-1])))
    (low, low_residual), (high, high_residual) = found
    return Ends(low, high, low_residual, high_residual)


def _beyond(a: sparse.csr_array, guess: float, drop: float | None) -> float:
    """Largest eigenvalue of A, or the second if that is ``drop``, by shift-invert."""
    n, diagonal = a.shape[0], a.diagonal()
    circles = float((diagonal + abs(a).sum(axis=1) - abs(diagonal)).max())  # Gershgorin: none lies above
    shift, factor = _factor_above(a, min(guess, circles))
    inverse = LinearOperator(a.shape, matvec=lambda x: -factor.solve(x), dtype=np.float64)
    tolerance = 1e-6 if drop is None else 1e-10  # of 1 / (shift - eigenvalue)
    fixed: dict[str, Any] = {"v0": np.random.default_rng(0).standard_normal(n)}
    if "rng" in inspect.signature(eigsh).parameters:  # scipy 1.17; earlier ones are deterministic without
        fixed["rng"] = np.random.default_rng(0)
    values = eigsh(a, 2, sigma=shift, OPinv=inverse, tol=tolerance, return_eigenvectors=False, **fixed)
    low, high = np.sort(values)
    return float(low if drop is not None and abs(high - drop) < 1e-13 else high)


def _factor_above(a: sparse.csr_array, guess: float) -> tuple[float, Any]:
    """A shift above all eigenvalues of A, near ``guess``, and the factors of shift I - A.

    Without pivoting the signs of the pivots are the signs of the eigenvalues (Sylvester), so a shift that is
    too low shows, and is raised.
    """
    step = 1e-9
    while True:
        matrix = sparse.csc_array((guess + step) * sparse.eye_array(a.shape[0]) - a)
        options = {"SymmetricMode": True}
        factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
        if factor.U.diagonal().min() > 0:
            return guess + step, factor
        step *= 100
