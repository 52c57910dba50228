"""Schedules that draw each round anew, and gossip with exact averages in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from topologies.checks import as_csr, check_mixing_matrix
from topologies.finite_time import half_from
from topologies.graphs import require_workers
from topologies.schedules import LARGEST_PRODUCT, Schedule
from topologies.streams import stream
from topologies.wording import shown


def random_matching(n: int, seed: int = 0) -> Schedule:
    """Each round a uniformly random perfect matching: both of a pair replace their vectors by the mean.

    One vector a worker and round; with an odd n one worker, drawn each round, is idle. Symmetric, without a
    period, exact for n <= 2 only. E|W x - mean|^2 = (n-2)/(2(n-1)) |x - mean|^2 for an even n, and half of
    |x - mean|^2 for an odd one. Round t is a function of (seed, t), made in O(n).
    Reference: Boyd et al. 2006 (randomized gossip).
    """
    require_workers("random-matching", n)
    return Schedule(n=n, period=None, rule=partial(_matched, n, seed))


def one_peer_exponential_random(n: int, seed: int = 0) -> Schedule:
    """Each round i keeps half and sends half to i + 2^j mod n, j drawn evenly from 0..ceil(log2 n) - 1.

    One vector a worker and round. The draws are with replacement, so that no number of rounds is sure to
    average exactly; one-peer-exponential takes the same offsets in turn. Without a period; round t is a
    function of (seed, t), made in O(n). Reference: Ying et al. 2021 (arXiv 2110.13363).
    """
    require_workers("one-peer-exponential-random", n)
    return Schedule(n=n, period=None, rule=partial(_one_peer, n, seed))


def periodic_averaging(mixing: Any, every: int) -> Schedule:
    """The mixing matrix or schedule, but each ``every``-th round averages exactly, with 11'/n in its place.

    W(t) = 11'/n in rounds every - 1, 2 every - 1, ... (from 0), else that of ``mixing`` in round t; so the
    period is the least common multiple. It need not be connected: with the identity workers are alone in
    between (local SGD). 11'/n has n^2 entries, so n is at most ``LARGEST_PRODUCT``; as gossip it costs n-1
    vectors a worker, as a ring all-reduce 2 (n-1)/n. Reference: Chen et al. 2021 (Gossip-PGA).
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(
            f"an exact average every {shown(every)} rounds is not possible; use every = 1 or more"
        )
    if not isinstance(mixing, Schedule):
        w = as_csr(mixing)
        check_mixing_matrix(w, connected=False)
        mixing = Schedule(n=w.shape[0], period=1, rule=(w,).__getitem__)
    n, period = mixing.n, mixing.period
    if n > LARGEST_PRODUCT:
        raise ValueError(
            f"the exact average of {n} workers is a dense matrix; use at most {LARGEST_PRODUCT} workers"
        )
    average = as_csr(np.full((n, n), 1 / n))
    return Schedule(
        n=n,
        period=None if period is None else math.lcm(period, every),
        rule=partial(_or_average, mixing.matrix, average, every),
    )


# rules of module level, for a schedule is sent to other ranks


def _matched(n: int, seed: int, t: int) -> sparse.csr_array:
    order = stream(seed, "random-matching", t).permutation(n)
    left, right = order[: n // 2], order[n // 2 : n // 2 * 2]
    source = np.arange(n)
    source[left], source[right] = right, left
    return half_from(source)


def _one_peer(n: int, seed: int, t: int) -> sparse.csr_array:
    offsets = 2 ** np.arange((n - 1).bit_length()) if n > 1 else np.zeros(1, dtype=int)
    return half_from((np.arange(n) - stream(seed, "one-peer-exponential-random", t).choice(offsets)) % n)


def _or_average(
    rule: Callable[[int], sparse.csr_array], average: sparse.csr_array, every: int, t: int
) -> sparse.csr_array:
    return rule(t) if (t + 1) % every else average
