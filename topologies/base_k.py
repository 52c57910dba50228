"""Base-(k+1) graph: exact averaging of any number of workers in O(log n) rounds of at most k peers."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np
from scipy import sparse

from topologies.finite_time import require_peers
from topologies.graphs import require_workers
from topologies.schedules import Schedule, cyclic


def base_k(n: int, k: int = 1) -> Schedule:
    """Base-(k+1) graph: symmetric, and a period averages exactly for every n; in order, from its first round.

    Write n = p q, where p has all prime factors up to k+1. The base version averages p groups of q side by
    side with the simple version, and then all groups factor by factor. The simple version is for all n; the
    shorter one is returned, of at most 2 log_(k+1)(n) + 2 rounds. The rounds need not commute.

    At most k vectors a worker and round; workers differ, and some are idle in some rounds.
    Reference: Takezawa et al. 2023 (arXiv 2305.11420).
    """
    require_workers("base-k", n)
    require_peers("base-k", k)
    require_workers("base-k", n, edges=n * min(k, n) / 40)  # of sparse matrices, not of a graph
    p = math.prod(_factors(n, k))
    q = n // p
    base = [_kron(_eye(p), w) for w in _simple(q, k)] + [_kron(w, _eye(q)) for w in _hypercube(p, k)]
    simple = _simple(n, k)
    return cyclic((base if len(base) <= len(simple) else simple) or [_eye(1)])


def _factors(n: int, k: int) -> list[int]:
    """Factors of n up to k+1, as large as can be, ascending; their product is n if no prime is larger."""
    found: list[int] = []
    for factor in range(min(n, k + 1), 1, -1):
        while n % factor == 0:
            found.append(factor)
            n //= factor
    return found[::-1]


def _hypercube(n: int, k: int) -> list[Any]:
    """k-peer hyper-hypercube, exact: a round a factor f, cliques of f at a stride of the factors before."""
    factors = _factors(n, k)
    strides = accumulate(factors, lambda stride, f: stride * f, initial=1)
    return [
        _kron(_eye(n // (f * stride)), _kron(np.full((f, f), 1 / f), _eye(stride)))
        for f, stride in zip(factors, strides, strict=False)
    ]


def _simple(n: int, k: int) -> list[Any]:
    """Rounds of the simple version.

    The digits of n in base k+1 cut the workers into groups: each is a blocks of (k+1)^p, p descending. All
    groups average inside. Then group by group hands its mean to all later ones (see ``_hand_over``), and
    its blocks average inside; a group that is done goes on until the first one is.
    """
    if math.prod(_factors(n, k)) == n:
        return _hypercube(n, k)
    groups = _groups(n, k)
    inside = [_hypercube(a * size, k) for a, size in groups]
    # Blocks of one worker need nothing more; their group goes on averaging.
    blocks = [[_kron(_eye(a), w) for w in _hypercube(size, k)] or _hypercube(a, k) for a, size in groups]
    sizes = [a * size for a, size in groups]
    last = len(groups) - 1
    rounds = [
        _side_by_side([_turn(*of, t) for of in zip(inside, sizes, strict=True)])
        for t in range(len(inside[0]))
    ]
    for t in range(1 + len(blocks[0])):
        parts = [_turn(blocks[g], sizes[g], t - g - 1) for g in range(min(t, last))]
        parts.append(_hand_over(groups[t:], k) if t < last else _turn(blocks[last], sizes[last], t - last))
        rounds.append(_side_by_side(parts))
    return rounds


def _groups(n: int, k: int) -> list[tuple[int, int]]:
    """(a, size) of the digits a != 0 of n in base k+1, size = (k+1)^p, the largest first."""
    found, size = [], 1
    while n:
        n, a = divmod(n, k + 1)
        if a:
            found.append((a, size))
        size *= k + 1
    return found[::-1]


def _hand_over(groups: list[tuple[int, int]], k: int) -> sparse.csr_array:
    """Each worker of the later groups exchanges with one of each block of the first group.

    The weight is size / n with n workers here. If each group agreed before, then the mean of each block and
    the mean of the later groups is now that of all n. Workers without a partner average in cliques.
    """
    (a, size), n = groups[0], sum(a * size for a, size in groups)
    later = n - a * size
    starts = size * np.arange(a)[:, None]
    partners = (starts + np.arange(size - later, size)).ravel()
    askers = np.tile(np.arange(a * size, n), a)
    free = (starts + np.arange(size - later)).ravel()
    member = sparse.csr_array((np.ones(free.size), (np.arange(free.size), np.arange(free.size) // (k + 1))))
    cliques = sparse.coo_array(member @ (member / member.sum(axis=0)).T)
    weight = size / n
    kept = np.concatenate([np.full(partners.size, 1 - weight), np.full(later, 1 - a * weight)])
    keepers = np.concatenate([partners, np.arange(a * size, n)])
    entries = [
        (np.full(askers.size, weight), askers, partners),
        (np.full(askers.size, weight), partners, askers),
        (kept, keepers, keepers),
        (cliques.data, free[cliques.row], free[cliques.col]),
    ]
    data, rows, columns = map(np.concatenate, zip(*entries, strict=True))
    return sparse.csr_array((data, (rows, columns)), shape=(n, n))


def _turn(rounds: list[Any], n: int, t: int) -> Any:
    """Round t of rounds that repeat; n workers that have none are idle."""
    return rounds[t % len(rounds)] if rounds else _eye(n)


def _eye(n: int) -> Any:
    return sparse.eye_array(n)


def _kron(left: Any, right: Any) -> Any:
    return sparse.kron(sparse.coo_array(left), sparse.coo_array(right), format="csr")


def _side_by_side(matrices: list[Any]) -> Any:
    return sparse.block_diag(matrices, format="csr")
