"""Ends of a spectrum without a dense matrix: Lanczos where the graph expands, shift-invert where it does not.

Lanczos needs about 1 / sqrt(gap) products and so does not end on long thin graphs (paths, grids, trees);
there a sparse factorisation is cheap. On expanders the factorisation fills up, but Lanczos ends. Always the
same start vector: the same matrix gives the same digits.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh, splu

DENSE = 1024
"""Workers up to which dense linear algebra is used instead."""

BASIS = 40
"""Vectors Lanczos keeps."""

RESTARTS = 15
"""Restarts before a thin graph is factorised."""

PATIENCE = 2000
"""Restarts on a graph that is not thin."""

THIN = 0.01
"""A graph is thin if its gap is not above this: its factorisation stays sparse."""


def extremes(a: sparse.csr_array) -> tuple[float, float]:
    """(lambda_2, lambda_n) of a symmetric A with A 1 = 1, the eigenvalue of the vector 1 left out.

    That eigenvalue is moved out of the way, beyond the other end, by adding a multiple of 11'/n.
    """
    n = a.shape[0]
    if n == 1:
        return 0.0, 0.0
    far = 4 * float(abs(a).sum(axis=1).max())
    if n <= DENSE:
        values = np.linalg.eigvalsh(a.toarray() + far / n)
        return float(values[-2]), float(values[0])
    upper = LinearOperator(a.shape, matvec=lambda x: a @ x - far * x.mean(), dtype=np.float64)
    lower = LinearOperator(a.shape, matvec=lambda x: -(a @ x) - far * x.mean(), dtype=np.float64)
    try:
        return largest(upper, RESTARTS), -largest(lower, RESTARTS)
    except ArpackNoConvergence:
        thin = 1 - largest(upper, PATIENCE, tolerance=1e-2) <= THIN
    if thin:
        return _beyond(a, drop=1.0), -_beyond(-a, drop=None)
    return largest(upper, PATIENCE), -largest(lower, PATIENCE)


def largest(operator: LinearOperator, restarts: int = PATIENCE, tolerance: float = 1e-9) -> float:
    """Largest eigenvalue of a symmetric operator; the error is of the order of the tolerance squared."""
    how = {"which": "LA", "ncv": BASIS, "maxiter": restarts, "tol": tolerance} | _fixed(operator.shape[0])
    return float(eigsh(operator, 1, return_eigenvectors=False, **how)[0])


def _beyond(a: sparse.csr_array, drop: float | None) -> float:
    """Largest eigenvalue of A, or the second if the largest is ``drop``, by shift-invert from above all of them."""
    diagonal = a.diagonal()
    bound = float((diagonal + abs(a).sum(axis=1) - abs(diagonal)).max())  # Gershgorin's circles end here
    shift = bound + 1e-9
    # The matrix is positive definite: no pivoting, and an ordering that keeps it symmetric.
    above = sparse.csc_array(shift * sparse.eye_array(a.shape[0]) - a)
    options = {"SymmetricMode": True}
    factor = splu(above, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    inverse = LinearOperator(a.shape, matvec=lambda x: -factor.solve(x), dtype=np.float64)
    fixed = _fixed(a.shape[0])
    values = np.sort(eigsh(a, 2, sigma=shift, OPinv=inverse, return_eigenvectors=False, **fixed))[::-1]
    return float(values[1] if drop is not None and abs(values[0] - drop) < 1e-13 else values[0])


def _fixed(n: int) -> dict[str, Any]:
    """Start vector, and the generator newer versions of scipy take for further ones."""
    fixed: dict[str, Any] = {"v0": np.random.default_rng(0).standard_normal(n)}
    if "rng" in inspect.signature(eigsh).parameters:
        fixed["rng"] = np.random.default_rng(0)
    return fixed
