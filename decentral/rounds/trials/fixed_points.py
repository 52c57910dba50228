"""Steady states on quadratics by linear algebra, from where a method says that it rests (:class:`Rest`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from decentral.algorithms.rest import rest_of
from decentral.algorithms.traits import Method, traits_of

Array = NDArray[np.float64]


def fixed_point(method: Method[Any], w: Any, hessians: Array, linear: Array, lr: float) -> Array | None:
    """X (n, d) where ``method`` rests, or None where no closed form is known.

    ``w`` (n, n) mixing matrix; ``hessians`` (n, d, d); ``linear`` (n, d). Weight decay belongs in the Hessians.
    """
    n, d = linear.shape
    rest = rest_of(method)
    if rest is None:
        return None
    if rest.bias == "none":
        return np.tile(np.linalg.solve(hessians.mean(0), linear.mean(0)), (n, 1))
    if traits_of(method).pushes:
        return None  # how much weight reaches a worker would enter
    mixing, rate = sparse.csr_array(w), lr * rest.times / rest.over
    B = mixing if rest.bias == "atc" else sparse.eye_array(n, format="csr")
    if rest.remixed:
        B = sparse.csr_array(B @ np.linalg.inv(np.eye(n) - rest.remixed * B.toarray()))
    eye = sparse.eye_array(d)
    B = sparse.kron(B, eye, format="csr")
    D = sparse.block_diag(list(hessians), format="csr")
    left = sparse.eye_array(n * d) - sparse.kron(mixing, eye) + rate * (B @ D)
    solution = spsolve(sparse.csc_array(left), rate * (B @ linear.reshape(-1)))
    return np.asarray(solution).reshape(n, d)
