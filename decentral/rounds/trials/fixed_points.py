"""Steady states on quadratics by linear algebra: what a method converges to, derived apart from its code.

f_i(x) = x' H_i x / 2 - r_i' x, full gradients, constant lr, static W (read W as W kron I, D = blkdiag(H_i)):

    PmSGD, D2, exact diffusion, EXTRA, gradient tracking, DIGing, momentum tracking
                                 x* = (mean H)^-1 mean r
    DSGD atc, DecentLaM, QG      (I - W + lr W D) X = lr W r
    DmSGD atc, nesterov          the same with lr / (1 - beta);    QG nesterov: with lr (1 + beta)
    DSGD awc                     (I - W + lr D) X = lr r;      DmSGD awc: with lr / (1 - beta)
    DmSGD doubly averaged        (I - W + lr W K D) X = lr W K r,      K = (I - beta W)^-1
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from decentral.algorithms import (
    D2,
    DSGD,
    EXTRA,
    DecentLaM,
    DmSGD,
    GradientTracking,
    MomentumTracking,
    PmSGD,
    PushDIGing,
    QuasiGlobal,
    RelaySGD,
)

_EXACT = (PmSGD, D2, EXTRA, GradientTracking, MomentumTracking, PushDIGing)

Array = NDArray[np.float64]


def fixed_point(method: Any, w: Any, hessians: Array, linear: Array, lr: float) -> Array | None:
    """X (n, d) where ``method`` rests, or None where no closed form is known.

    ``w`` (n, n) mixing matrix; ``hessians`` (n, d, d); ``linear`` (n, d). Weight decay belongs in the Hessians.
    """
    n, d = linear.shape
    if isinstance(method, _EXACT) or method == RelaySGD("model"):
        return np.tile(np.linalg.solve(hessians.mean(0), linear.mean(0)), (n, 1))
    terms = _combination(method, sparse.csr_array(w), lr)
    if terms is None:
        return None
    before_gradient, rate = terms
    eye = sparse.eye_array(d)
    B = sparse.kron(before_gradient, eye, format="csr")
    D = sparse.block_diag(list(hessians), format="csr")
    left = sparse.eye_array(n * d) - sparse.kron(sparse.csr_array(w), eye) + rate * (B @ D)
    solution = spsolve(sparse.csc_array(left), rate * (B @ linear.reshape(-1)))
    return np.asarray(solution).reshape(n, d)


def _combination(method: Any, w: sparse.csr_array, lr: float) -> tuple[Any, float] | None:
    """(B, rate) such that at rest (I - W + rate B D) X = rate B r."""
    eye = sparse.eye_array(w.shape[0], format="csr")
    if isinstance(method, DSGD):
        return (w if method.variant == "atc" else eye), lr
    if isinstance(method, DecentLaM):
        return w, lr
    if isinstance(method, QuasiGlobal):
        return w, lr * (1 + method.momentum) if method.nesterov else lr
    if isinstance(method, DmSGD):
        if method.variant == "doubly-averaged":
            K = np.linalg.inv(np.eye(w.shape[0]) - method.momentum * w.toarray())
            return sparse.csr_array(w @ K), lr
        return (eye if method.variant == "awc" else w), lr / (1 - method.momentum)
    return None
