"""Schedules whose period averages exactly if the number of workers has the right factors."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from topologies.graphs import require_workers
from topologies.schedules import Schedule, cyclic
from topologies.wording import shown


def require_peers(name: str, k: int) -> None:
    """Refuse a number of peers that is not a positive integer."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(
            f"{name} needs an integer number of peers, 1 or more (k = {shown(k)}); use k = 1, say"
        )


def circulant(n: int, offsets: np.ndarray) -> sparse.csr_array:
    """Mean of the shifts by ``offsets`` (m,): i sends 1/m of what it holds to i + offset mod n, (n, n).

    Offsets that are equal mod n add up; 0 is what a worker keeps.
    """
    senders = np.repeat(np.arange(n), offsets.size)
    receivers = (senders + np.tile(offsets, n)) % n
    weights = np.full(senders.size, 1 / offsets.size)
    return sparse.csr_array((weights, (receivers, senders)), shape=(n, n))


def half_from(source: np.ndarray) -> sparse.csr_array:
    """(I + P) / 2: row i keeps half and takes half from ``source[i]``; with source[i] = i it is idle.

    ``source`` (n,) is a permutation, so the matrix is doubly stochastic.
    """
    n = source.size
    i = np.arange(n)
    halves = (np.full(2 * n, 0.5), (np.concatenate([i, i]), np.concatenate([i, source])))
    return sparse.csr_array(halves, shape=(n, n))


def k_peer_exponential(n: int, k: int = 1) -> Schedule:
    """Round t: i sends 1/(k+1) to each i + j (k+1)^(t mod tau) mod n, j = 0..k; tau = floor(log_(k+1) n).

    k vectors a worker and round. Circulant, so the order of the rounds does not matter. Its period averages
    exactly if and only if n = (k+1)^tau. With k = 1 and another n it has one round less than
    one-peer-exponential, whose tau is rounded up. Needs k < n.
    Reference: Niwa et al. 2025 (NeurIPS), "Revisiting 1-peer exponential graph", definition 5.
    """
    require_workers("k-peer-exponential", n)
    require_peers("k-peer-exponential", k)
    if n == 1:
        return cyclic([np.eye(1)])
    if k >= n:
        raise ValueError(f"k-peer-exponential needs k < n (n = {n}, k = {k}); use k = {n - 1} or less")
    require_workers("k-peer-exponential", n, edges=n * k / 10)  # of a sparse matrix, not of a graph
    turns, step = [], 1
    while step * (k + 1) <= n:
        turns.append(circulant(n, step * np.arange(k + 1)))
        step *= k + 1
    return cyclic(turns)


def one_peer_hypercube(n: int) -> Schedule:
    """Dimension exchange: in round t i and i XOR 2^(t mod log2 n) replace their vectors by the mean of both.

    One vector a worker and round. Symmetric, and its period of log2 n rounds averages exactly; n must be a
    power of two. Reference: Cybenko 1989 (dimension exchange); Shi et al. 2016 (finite-time consensus).
    """
    require_workers("one-peer-hypercube", n)
    if n & (n - 1):
        powers = f"{1 << (n.bit_length() - 1)} or {1 << n.bit_length()}"
        raise ValueError(f"one-peer-hypercube needs a power of two (n = {n}); use {powers}, or base-k")
    i = np.arange(n)
    return cyclic([half_from(i ^ (1 << j)) for j in range(n.bit_length() - 1)] or [np.eye(1)])
