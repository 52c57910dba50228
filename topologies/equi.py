"""EquiTopo: offsets drawn at random, the same for all workers.

Basis: A_u keeps 1/n and sends (n-1)/n to i + u mod n; the mean of A_u over u = 1..n-1 is 11'/n.
Reference: Song et al. 2022 (arXiv 2210.07881).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy import sparse

from topologies.finite_time import circulant, half_from
from topologies.graphs import require_workers
from topologies.schedules import Schedule, constant
from topologies.streams import stream
from topologies.wording import shown


def equi_static(n: int, degree: int = 4, directed: bool = True, seed: int = 0) -> Schedule:
    """D- or U-EquiStatic: the mean of A_u over drawn offsets u, and if undirected of A_u' too; period 1.

    Offsets are drawn evenly from 1..n-1 with replacement: ``degree`` of them, or half as many if undirected
    (``degree`` is then even), so that nobody sends more than ``degree`` vectors a round. They are drawn
    again until they connect all workers, which the paper does not do. The more offsets the nearer to
    11'/n: floor(8 ln(2n/p) / (3 eps^2)) of them give rho < eps with probability 1 - p or more.
    """
    require_workers("equi-static", n)
    step = 1 if directed else 2
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1 or degree % step:
        kind = "a positive degree" if directed else "a positive even degree where it is undirected"
        raise ValueError(f"equi-static needs {kind} (degree = {shown(degree)}); use degree = 4, say")
    if n == 1:
        return constant(np.eye(1))
    require_workers("equi-static", n, edges=n * degree / 10)  # of a sparse matrix, not of a graph
    rng = stream(seed, "equi-static")
    offsets = np.zeros(1, dtype=np.int64)
    while math.gcd(n, *offsets.tolist()) > 1:
        offsets = rng.integers(1, n, degree // step)
    if not directed:
        offsets = np.concatenate([offsets, -offsets])
    return constant(sparse.eye_array(n) / n + (n - 1) / n * circulant(n, offsets))


def equi_dynamic(n: int, directed: bool = True, seed: int = 0) -> Schedule:
    """OD- or OU-EquiDyn: each round one offset u, drawn evenly from 1..n-1, and weights 1/2.

    Directed: i keeps half and sends half to i + u mod n; E|W x - mean|^2 = (n-2)/(2(n-1)) |x - mean|^2.
    Undirected: from a drawn start worker on, i and i + u average if both are free; some stay idle.
    In the paper W = (1 - eta) I + eta A_u: this is eta = n / (2(n-1)), which makes that expectation smallest.
    At most one vector a worker and round. Without a period; round t is a function of (seed, t), made in O(n).
    """
    require_workers("equi-dynamic", n)
    if n == 1:
        return constant(np.eye(1))
    return Schedule(n=n, period=None, rule=partial(_drawn, n, directed, seed))


def _drawn(n: int, directed: bool, seed: int, t: int) -> sparse.csr_array:
    rng = stream(seed, "equi-dynamic", t)
    u = int(rng.integers(1, n))
    return half_from((np.arange(n) - u) % n if directed else _matching(n, u, int(rng.integers(n))))


def _matching(n: int, u: int, start: int) -> np.ndarray:
    """Partner of each worker (itself if idle), as greedy matching of i and i + u mod n would give from start.

    With u <= n/2 that goes by blocks of u from start: every other block meets the next one, the last is cut
    short. Offset n - u from start - u gives the same as u from start, and each start is as likely: u is folded.
    """
    u = min(u, n - u)
    place = np.arange(n)
    left = place[(place // u % 2 == 0) & (place + u < n)]
    partner = np.arange(n)
    partner[left], partner[left + u] = left + u, left
    return (np.roll(partner, start) + start) % n
