"""Spectra: how fast a mixing matrix W brings n workers together, rho = |W - 11'/n|_2 and gap = 1 - rho.

Mixing contracts the disagreement by rho at the least, each round. For a symmetric W rho is the larger of
|lambda_2| and |lambda_n|; for a circulant one the eigenvalues are the Fourier transform of a row; else it
is a singular value. Nothing here forms a dense matrix above ``DENSE`` workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from topologies.checks import as_csr, check_mixing_matrix, is_doubly_stochastic, is_nonnegative, is_symmetric
from topologies.lanczos import DENSE, LIMIT, extremes, lanczos

MIXING_EPSILON = 1e-3
"""The mixing time is the number of rounds that shrink any disagreement to this part of itself."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Facts on a mixing matrix.

    ``second`` and ``last`` are lambda_2 and lambda_n of a symmetric W. Otherwise ``second`` is the second
    largest modulus of an eigenvalue, the rate in the long run (None above ``DENSE`` workers unless W is
    circulant), and ``last`` is None. ``mixing_time_rounds`` is the smallest t with rho^t <= ``epsilon``,
    None if rho >= 1. ``eigenvalues`` (up to ``DENSE`` workers) descend, by modulus where they are complex.
    """

    n: int
    second: float | None
    last: float | None
    rho: float
    gap: float
    mixing_time_rounds: int | None
    epsilon: float
    symmetric: bool
    doubly_stochastic: bool
    nonnegative: bool
    eigenvalues: np.ndarray | None


def spectrum(matrix: Any) -> Spectrum:
    """Everything at once; rows or columns must sum to one, but the graph of W need not be connected."""
    w = as_csr(matrix)
    check_mixing_matrix(w, connected=False, sums="either")
    n, symmetric, doubly = w.shape[0], is_symmetric(w), is_doubly_stochastic(w)
    second, last, rho = _facts(w, symmetric, doubly)
    return Spectrum(
        n=n,
        second=second,
        last=last,
        rho=rho,
        gap=1 - rho,
        mixing_time_rounds=_mixing_time(n, rho),
        epsilon=MIXING_EPSILON,
        symmetric=symmetric,
        doubly_stochastic=doubly,
        nonnegative=is_nonnegative(w),
        eigenvalues=eigenvalues(w) if n <= DENSE else None,
    )


def spectral_gap(matrix: Any) -> float:
    """1 - rho with rho = |W - 11'/n|_2: 1 where one round is exact averaging, 0 where a part never mixes.

    Negative where W is not doubly stochastic and can pull the workers further apart in one round.
    """
    w = as_csr(matrix)
    check_mixing_matrix(w, connected=False, sums="either")
    return 1 - _facts(w, is_symmetric(w), is_doubly_stochastic(w))[2]


def eigenvalues(matrix: Any) -> np.ndarray:
    """All eigenvalues, descending (by modulus if W is not symmetric); n <= 1,024 unless W is circulant."""
    w = as_csr(matrix)
    row = circulant_row(w)
    if row is not None:
        values = np.fft.fft(row)
    elif w.shape[0] > DENSE:
        size = f"all eigenvalues of {w.shape[0]} workers would need a dense matrix"
        raise ValueError(f"{size}; use spectrum(w), or at most {DENSE} workers")
    elif is_symmetric(w):
        values = np.linalg.eigvalsh(w.toarray())
    else:
        values = np.linalg.eigvals(w.toarray())
    if is_symmetric(w):
        return np.sort(values.real)[::-1]
    # Rounded keys: conjugate pairs have one modulus up to the last bit, and must keep one order.
    return values[np.lexsort((values.imag, -values.real.round(12), -abs(values).round(12)))]


def circulant_row(w: sparse.csr_array) -> np.ndarray | None:
    """Row 0 of a circulant W, where every row is the one above it moved right by one; else None."""
    n = w.shape[0]
    entries = w.tocoo()
    shift = (entries.col - entries.row) % n
    row = np.zeros(n)
    row[w.indices[: w.indptr[1]]] = w.data[: w.indptr[1]]
    # As many entries as n copies of row 0, and each equal to the one there at its offset.
    same = w.nnz == n * w.indptr[1] and bool((abs(row[shift] - entries.data) < 1e-15).all())
    return row if same else None


def _facts(w: sparse.csr_array, symmetric: bool, doubly: bool) -> tuple[float | None, float | None, float]:
    """(second, last, rho)."""
    n = w.shape[0]
    if n == 1:
        return 0.0, 0.0, 0.0
    row = circulant_row(w)
    if row is not None:
        others = np.fft.fft(row)[1:]
        rho = float(abs(others).max())  # a circulant matrix is normal: singular values are moduli
        return (float(others.real.max()), float(others.real.min()), rho) if symmetric else (rho, None, rho)
    if symmetric:
        second, last = extremes(w)
        return second, last, max(abs(second), abs(last))
    if n <= DENSE:
        modulus = np.sort(abs(np.linalg.eigvals(w.toarray())))[::-1]
        return float(modulus[1]), None, float(np.linalg.norm(w.toarray() - 1 / n, 2))
    if doubly:  # (W - J)'(W - J) = W'W - J, and W'W is symmetric and doubly stochastic
        return None, None, math.sqrt(max(0.0, extremes(w.T @ w)[0]))
    return None, None, math.sqrt(lanczos(lambda x: w.T @ (w @ x - x.mean()), n, LIMIT).high)


def _mixing_time(n: int, rho: float) -> int | None:
    if n == 1:
        return 0
    if rho >= 1 - 1e-15:
        return None
    if rho <= MIXING_EPSILON:
        return 1
    return math.ceil(math.log(MIXING_EPSILON) / math.log(rho))
