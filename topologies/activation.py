"""MATCHA: a graph's matchings, each active in a round with a probability of its own, within a budget.

Reference: Wang, Sahu, Yang, Joshi, Kar 2019 (arXiv 1905.09435).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from topologies.checks import as_csr
from topologies.deferred import Deferred
from topologies.edge_colouring import matchings
from topologies.graphs import require_workers
from topologies.named_graphs import TOPOLOGIES
from topologies.schedules import Schedule
from topologies.streams import stream
from topologies.weights import mixing_matrix
from topologies.wording import shown

if TYPE_CHECKING:
    import cvxpy as cp
    import networkx as nx
    from scipy import optimize
else:
    cp, optimize = Deferred("cvxpy"), Deferred("scipy.optimize")

Array = NDArray[np.float64]

LARGEST = 100
"""Workers up to which the semidefinite program is solved; there it takes a minute and 1.4 GB."""

_GAP = 1e-5  # how far below its upper bound lambda_2 may stay, relative
_TOLERANCE = 1e-7  # of the solver


def matcha(n: int, graph: str = "ring", budget: float = 0.5, seed: int = 0) -> Schedule:
    """MATCHA: each round activates some of a graph's matchings, the part ``budget`` of all in the mean.

    W(t) = I - alpha sum_j B_j L_j, with L_j the Laplacian of matching j and B_j ~ Bernoulli(p_j); p and alpha
    are those of ``activation_probabilities`` and ``mixing_weight``. Symmetric, doubly stochastic, without a period; a
    diagonal may be negative. ``graph`` is the name of an undirected graph in ``TOPOLOGIES``, of n >= 2 workers.
    Round t is a function of (seed, t), made in O(edges). Raises ValueError as these functions do.
    Reference: Wang, Sahu, Yang, Joshi, Kar 2019 (arXiv 1905.09435).
    """
    require_workers("matcha", n)
    if graph not in TOPOLOGIES:
        raise ValueError(f"matcha has no graph {shown(graph)}; use one of {', '.join(TOPOLOGIES)}")
    return matcha_of(TOPOLOGIES[graph](n), budget, seed)


def matcha_of(graph: nx.Graph, budget: float = 0.5, seed: int = 0) -> Schedule:
    """``matcha`` on any connected undirected graph of two workers or more."""
    _check_budget(budget)
    mine = matchings(graph)
    mixing_matrix(graph)  # refuses a graph in parts
    if not mine:
        raise ValueError(
            "matcha needs two workers or more (n = 1): no one is there to talk to; use n = 2, say"
        )
    p, alpha = _solved(len(graph), tuple(map(tuple, mine)), float(budget))
    pairs = np.array([pair for matching in mine for pair in matching]).T
    matching_of = np.repeat(np.arange(len(mine)), [len(matching) for matching in mine])
    return Schedule(
        n=len(graph), period=None, rule=partial(_activated, len(graph), pairs, matching_of, p, alpha, seed)
    )


def laplacians(n: int, matchings: Sequence[Sequence[tuple[int, int]]]) -> Array:
    """Laplacian matrix of each of M matchings of n workers, (M, n, n)."""
    found = np.zeros((len(matchings), n, n))
    for L, matching in zip(found, matchings, strict=True):
        for i, j in matching:
            L[[i, j], [i, j]] = 1
            L[[i, j], [j, i]] = -1
    return found


def activation_probabilities(laplacians: Array, budget: float) -> Array:
    """How often each of M matchings is active, p (M,), for the best connected graph in the mean.

    p maximizes lambda_2(sum_j p_j L_j) where 0 <= p_j <= 1 and sum_j p_j <= budget M, for a budget in (0, 1].
    The even choice p_j = budget is kept where it is optimal, as with budget = 1 and on an even ring. Else a
    semidefinite program is solved, which needs cvxpy and takes up to ``LARGEST`` workers. Either way a dual
    bound shows that lambda_2 is within 1e-5 of the optimum, relative.
    Raises ValueError for another budget, without cvxpy, above ``LARGEST``, and where the solver fails.
    """
    _check_budget(budget)
    apart = _on_disagreements(laplacians)
    m, size = apart.shape[:2]
    values, vectors = np.linalg.eigh(apart.sum(axis=0))
    lowest = vectors[:, values <= values[0] * (1 + 1e-9)]
    if _bound(apart, lowest @ lowest.T / lowest.shape[1], budget) <= budget * values[0] * (1 + _GAP):
        return np.full(m, float(budget))
    if size >= LARGEST:
        raise ValueError(
            f"matcha of {size + 1} workers is too large a semidefinite program; "
            f"use at most {LARGEST} workers, or budget = 1"
        )
    solved = _solve(apart / values[0], budget)
    if solved is not None:
        p, dual = solved
        if _bound(apart, dual, budget) <= np.linalg.eigvalsh(np.tensordot(p, apart, 1))[0] * (1 + _GAP):
            return p
    raise ValueError(f"matcha found no probabilities for budget = {budget}; use another, or budget = 1")


def expected_rho(laplacians: Array, p: Array, alpha: float) -> float:
    """rho = |E[W'W] - 11'/n|_2: a round shrinks the squared disagreement to this part at most, in the mean.

    E[W'W] = I - 2 alpha L + alpha^2 (L^2 + 2 sum_j p_j (1 - p_j) L_j) with L = sum_j p_j L_j, for L_j^2 = 2 L_j.
    """
    return _rho(*_moments(laplacians, p), alpha)


def mixing_weight(laplacians: Array, p: Array) -> float:
    """The alpha with the smallest ``expected_rho``, which is convex in it; each step costs O(n^3)."""
    first, second = _moments(laplacians, p)
    # At the largest eigenvalue of the first moment rho >= (1 - alpha lambda)^2, and rho = 1 at alpha = 0.
    most = 2 / np.linalg.eigvalsh(first)[-1]
    found = optimize.minimize_scalar(
        lambda alpha: _rho(first, second, alpha),
        bounds=(0, most),
        method="bounded",
        options={"xatol": 1e-9 * most},
    )
    return float(found.x)


@lru_cache(maxsize=64)  # a configuration is built several times
def _solved(n: int, matchings: tuple[tuple[tuple[int, int], ...], ...], budget: float) -> tuple[Array, float]:
    found = laplacians(n, matchings)
    p = activation_probabilities(found, budget)
    return p, mixing_weight(found, p)


def _activated(
    n: int, pairs: NDArray[np.int_], matching_of: NDArray[np.int_], p: Array, alpha: float, seed: int, t: int
) -> sparse.csr_array:
    """W of round t; of module level, for a schedule is sent to other ranks."""
    active = stream(seed, "matcha", t).random(p.size) < p
    i, j = pairs[:, active[matching_of]]
    degree = np.bincount(np.concatenate([i, j]), minlength=n)
    every = np.arange(n)
    weights = np.concatenate([np.full(2 * i.size, alpha), 1 - alpha * degree])
    where = (np.concatenate([i, j, every]), np.concatenate([j, i, every]))
    return as_csr(sparse.coo_array((weights, where), shape=(n, n)))


def _check_budget(budget: float) -> None:
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget <= 1:
        raise ValueError(f"budget = {shown(budget)} must be above 0 and at most 1; use 0.5, say")


# the semidefinite program, on the space of disagreements, where no eigenvalue belongs to the mean


def _on_disagreements(matrices: Array) -> Array:
    """The symmetric matrices (..., n, n) on a basis of the vectors that sum to zero, (..., n-1, n-1)."""
    n = matrices.shape[-1]
    basis = np.linalg.qr(np.eye(n)[:, 1:] - 1 / n)[0]
    within = basis.T @ matrices @ basis
    return np.asarray((within + np.swapaxes(within, -1, -2)) / 2)


def _bound(apart: Array, dual: Array, budget: float) -> float:
    """No probabilities of this budget have a larger lambda_2, whatever dual >= 0 with trace 1 is given."""
    gains = np.sort(np.einsum("jab,ab->j", apart, dual))[::-1]
    return float(np.clip(budget * gains.size - np.arange(gains.size), 0, 1) @ gains)


def _solve(apart: Array, budget: float) -> tuple[Array, Array] | None:
    """Probabilities and the dual matrix of trace 1, as the solver gives them; None if it gives none."""
    m, size = apart.shape[:2]
    try:
        p, least = cp.Variable(m), cp.Variable()  # in units of the budget, which scales all p to about 1
    except ImportError:
        raise ValueError("matcha needs cvxpy for this budget; pip install 'decentral[matcha]'") from None
    connected = sum(p[j] * apart[j] for j in range(m)) - least * np.eye(size) >> 0
    problem = cp.Problem(cp.Maximize(least), [connected, p >= 0, p <= 1 / budget, cp.sum(p) <= m])
    exact = {name: _TOLERANCE for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an inaccurate solution: the bound is what judges it
        try:
            # More threads would sum in another order, and the last bits differ from run to run. The problem is
            # scaled already: with the solver's own scaling on top, some fail in their first step.
            problem.solve(
                solver=cp.CLARABEL,
                direct_solve_method="faer",
                max_threads=1,
                equilibrate_enable=False,
                **exact,
            )
        except cp.SolverError:
            return None
    if p.value is None or connected.dual_value is None:
        return None
    found = np.clip(p.value * budget, 0, 1)
    return found * min(1, budget * m / found.sum()), connected.dual_value / np.trace(connected.dual_value)


def _moments(laplacians: Array, p: Array) -> tuple[Array, Array]:
    """E sum_j B_j L_j and E (sum_j B_j L_j)^2 on disagreements, (n-1, n-1) each."""
    apart = _on_disagreements(laplacians)
    mean = np.tensordot(p, apart, 1)
    return mean, mean @ mean + 2 * np.tensordot(p * (1 - p), apart, 1)


def _rho(first: Array, second: Array, alpha: float) -> float:
    return float(np.linalg.eigvalsh(np.eye(len(first)) - 2 * alpha * first + alpha**2 * second)[-1])
