"""Schedules that change: exact in finite time, random, equitopological, and with exact averages in between."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

import topologies
from topologies import is_doubly_stochastic, mixing_matrix, one_peer_exponential, period_rho, product, ring
from topologies.base_k import base_k
from topologies.equi import equi_dynamic, equi_static
from topologies.finite_time import k_peer_exponential, one_peer_hypercube
from topologies.random_schedules import one_peer_exponential_random, periodic_averaging, random_matching
from topologies.streams import stream


def dense(schedule, rounds=None):
    return [schedule.matrix(t).toarray() for t in range(rounds or schedule.period)]


def degrees(w):
    return (w != 0).sum(axis=1) - (np.diag(w) != 0)


def half_of(n, permutation):
    w = np.eye(n) / 2
    w[np.arange(n), permutation] += 0.5
    return w


def contraction(matrices):
    """E W'W on disagreements, (n, n)."""
    n = matrices[0].shape[0]
    apart = np.eye(n) - 1 / n
    return apart @ np.mean([w.T @ w for w in matrices], axis=0) @ apart


def constant_of(matrices):
    """The c of E|W x - mean|^2 = c |x - mean|^2, where it is the same for all x."""
    expected = contraction(matrices)
    n = len(expected)
    c = np.trace(expected) / (n - 1)
    np.testing.assert_allclose(expected, c * (np.eye(n) - 1 / n), atol=1e-14)
    return c


def assert_simulated(schedule, matrices, rounds=1500):
    """The mean of |W(t) x|^2 over rounds is its expectation over ``matrices``, within 4 standard errors."""
    x = np.random.default_rng(1).standard_normal(schedule.n)
    x -= x.mean()
    measured = [np.sum((schedule.matrix(t) @ x) ** 2) for t in range(rounds)]
    expected = x @ contraction(matrices) @ x
    assert abs(np.mean(measured) - expected) < 4 * np.std(measured) / math.sqrt(rounds) + 1e-12


def greedy(n, u, start):
    """Partners when workers from start on, round the ring, each ask i + u if both are free."""
    partner = list(range(n))
    for i in [*range(start, n), *range(start)]:
        j = (i + u) % n
        if i != j and partner[i] == i and partner[j] == j:
            partner[i], partner[j] = j, i
    return tuple(partner)


def matchings(workers):
    """All perfect matchings of an even number of workers."""
    if not workers:
        return [[]]
    first, *others = workers
    return [[(first, j), *m] for j in others for m in matchings([i for i in others if i != j])]


@pytest.mark.parametrize("name", [(), ("random-matching", 3), ("a", "b", 10**6)])
@pytest.mark.parametrize("seed", [0, 7, -1])
def test_a_stream_is_philox_keyed_by_the_hash_of_its_name(seed, name):
    # written out again: changing it would change every recorded run
    digest = hashlib.blake2b("\x1f".join(map(str, (seed, *name))).encode(), digest_size=16).digest()
    expected = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(5)
    np.testing.assert_array_equal(stream(seed, *name).random(5), expected)
    assert (stream(seed, *name, "other").random(5) != expected).all()


@pytest.mark.slow
@pytest.mark.parametrize("k", range(1, 5))
def test_base_k_averages_any_number_of_workers_exactly_with_k_peers(k):
    for n in range(1, 65):
        schedule = base_k(n, k)
        mixed = np.eye(n)
        for w in dense(schedule):
            np.testing.assert_allclose(w, w.T, atol=1e-15)
            np.testing.assert_allclose(w.sum(axis=0), 1, atol=1e-14)
            assert w.min() >= 0
            assert degrees(w).max() <= k
            mixed = w @ mixed
        np.testing.assert_allclose(mixed, 1 / n, atol=1e-12)
        assert schedule.period <= 2 * math.log(n, k + 1) + 2


@pytest.mark.parametrize(
    ("k", "lengths"),
    [
        (1, {3: 3, 5: 5, 6: 4, 7: 5, 8: 3, 9: 7, 10: 6, 12: 5, 15: 7, 24: 6, 25: 9, 48: 7}),
        (2, {5: 3, 7: 4, 10: 4, 15: 4, 21: 5, 25: 6, 48: 5}),
        (3, {10: 4, 25: 5}),
        (4, {21: 4, 25: 2}),
    ],
)
def test_base_k_is_as_short_as_its_authors_program_makes_it(k, lengths):
    assert {n: base_k(n, k).period for n in lengths} == lengths


def test_the_rounds_of_base_2_with_five_workers():
    halves = [{(0, 1): 0.5, (2, 3): 0.5}, {(0, 2): 0.5, (1, 3): 0.5}]
    rounds = [
        {(i, j): w[i, j] for i in range(5) for j in range(i + 1, 5) if w[i, j]} for w in dense(base_k(5, 1))
    ]
    assert rounds == [*halves, {(0, 1): 0.5, (3, 4): 0.8}, *halves]


@pytest.mark.parametrize("k", range(1, 5))
def test_k_peer_exponential_averages_exactly_if_and_only_if_n_is_a_power_of_k_plus_one(k):
    for n in range(k + 1, 41):
        schedule = k_peer_exponential(n, k)
        size = (k + 1) ** schedule.period
        assert size <= n < size * (k + 1)
        assert all(degrees(w).max() == k and degrees(w.T).max() == k for w in dense(schedule))
        # The eigenvalues of the rounds are Dirichlet kernels, whose product telescopes.
        angle = np.pi * np.arange(1, n) / n
        rest = abs(np.sin(size * angle) / (size * np.sin(angle))).max()
        assert period_rho(schedule) == pytest.approx(rest, abs=1e-13)
        assert (abs(product(schedule) - 1 / n).max() < 1e-15) == (size == n)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 32])
def test_one_peer_exponential_is_the_k_peer_one_with_k_1(n):
    np.testing.assert_array_equal(product(k_peer_exponential(n)), product(one_peer_exponential(n)))


@pytest.mark.parametrize("dimension", range(7))
def test_one_peer_hypercube_exchanges_along_each_dimension_and_averages_exactly(dimension):
    n = 2**dimension
    schedule = one_peer_hypercube(n)
    assert schedule.period == max(dimension, 1)
    for t, w in enumerate(dense(schedule)[:dimension]):
        pair = np.full((2, 2), 0.5)
        np.testing.assert_array_equal(w, np.kron(np.eye(n >> (t + 1)), np.kron(pair, np.eye(1 << t))))
    np.testing.assert_array_equal(product(schedule), np.full((n, n), 1 / n))


@pytest.mark.parametrize("n", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("directed", [True, False])
def test_equi_static_is_a_circulant_mean_of_the_basis(n, directed):
    for seed in range(4):
        schedule = equi_static(n, degree=4, directed=directed, seed=seed)
        (w,) = dense(schedule)
        assert is_doubly_stochastic(w)
        np.testing.assert_allclose(w, np.roll(w, (1, 1), axis=(0, 1)), atol=1e-15)
        assert np.array_equal(w, w.T) or directed
        assert degrees(w).max() <= 4
        if n > 1:
            assert w[0, 0] == pytest.approx(1 / n)
            drawn = w[0, 1:] * n / (n - 1) * 4
            np.testing.assert_allclose(drawn, drawn.round(), atol=1e-12)
            assert period_rho(schedule) < 1 - 1e-6


def test_equi_static_is_connected_whatever_is_drawn_and_nears_the_exact_mean_at_the_published_rate():
    for seed in range(20):
        (w,) = dense(equi_static(12, degree=1, seed=seed))
        (offset,) = np.flatnonzero(w[0, 1:]) + 1
        assert math.gcd(12, int(offset)) == 1
    n, eps, p = 48, 0.8, 0.5
    offsets = math.floor(8 * math.log(2 * n / p) / (3 * eps**2))
    near = [period_rho(equi_static(n, offsets, seed=seed)) < eps for seed in range(20)]
    assert np.mean(near) >= 1 - p


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_equi_dynamic_keeps_half_and_takes_half_by_one_drawn_offset(n):
    for t in range(40):
        w = equi_dynamic(n, seed=3).matrix(t).toarray()
        assert any(np.array_equal(w, half_of(n, (np.arange(n) - u) % n)) for u in range(n > 1, n)), t
        undirected = equi_dynamic(n, directed=False, seed=3).matrix(t).toarray()
        assert is_doubly_stochastic(undirected)
        np.testing.assert_array_equal(undirected, undirected.T)
        assert degrees(undirected).max() <= 1


@pytest.mark.parametrize("n", [5, 6, 8])
def test_undirected_equi_dynamic_is_a_greedy_matching_as_likely_as_the_papers(n):
    schedule, rounds = equi_dynamic(n, directed=False, seed=1), 1500
    scans = Counter(greedy(n, u, start) for u in range(1, n) for start in range(n))
    off = [schedule.matrix(t).toarray() - np.eye(n) / 2 for t in range(rounds)]
    drawn = Counter(tuple(int(j) for j in w.argmax(axis=1)) for w in off)
    assert drawn.keys() == scans.keys()
    for matching, count in scans.items():
        chance = count / (n * (n - 1))
        assert abs(drawn[matching] / rounds - chance) < 4.5 * math.sqrt(chance * (1 - chance) / rounds)
    assert_simulated(schedule, [half_of(n, m) for m in scans.elements()])


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_a_random_offset_contracts_as_its_exact_expectation(n):
    shifts = [half_of(n, (np.arange(n) - u) % n) for u in range(1, n)]
    expected = contraction(shifts)
    x = np.random.default_rng(0).standard_normal(n)
    x -= x.mean()
    # The shifts by 1..n-1 add up to 11' - I, so that E P = -I / (n-1) where the mean is 0.
    assert x @ expected @ x == pytest.approx((n - 2) / (2 * (n - 1)) * (x @ x), abs=1e-14)
    assert constant_of(shifts) == pytest.approx((n - 2) / (2 * (n - 1)), abs=1e-14)
    assert_simulated(equi_dynamic(n, seed=5), shifts)


@pytest.mark.parametrize("n", [2, 4, 6])
def test_random_matching_contracts_as_its_exact_expectation(n):
    pairings = []
    for pairs in matchings(list(range(n))):
        partner = np.arange(n)
        for i, j in pairs:
            partner[i], partner[j] = j, i
        pairings.append(half_of(n, partner))
    assert constant_of(pairings) == pytest.approx((n - 2) / (2 * (n - 1)), abs=1e-14)
    schedule, rounds = random_matching(n, seed=2), 1500
    assert_simulated(schedule, pairings)
    drawn = Counter(schedule.matrix(t).toarray().tobytes() for t in range(rounds))
    assert drawn.keys() == {w.tobytes() for w in pairings}
    chance = 1 / len(pairings)
    error = math.sqrt(chance * (1 - chance) / rounds)
    assert max(abs(count / rounds - chance) for count in drawn.values()) <= 4.5 * error


def test_random_matching_of_an_odd_number_leaves_one_idle_in_turn():
    n, rounds = 5, 1000
    schedule = random_matching(n)
    matrices = dense(schedule, rounds)
    assert all((np.diag(w) == 1).sum() == 1 and degrees(w).max() == 1 for w in matrices)
    idle = Counter(int(np.diag(w).argmax()) for w in matrices)
    assert all(abs(idle[i] / rounds - 1 / n) < 4 * math.sqrt(0.16 / rounds) for i in range(n))
    every = {
        tuple(p[p.index(i) ^ 1] if p.index(i) < 4 else i for i in range(n)) for p in permutations(range(n))
    }
    pairings = [half_of(n, partner) for partner in every]
    assert len(pairings) == 15
    assert constant_of(pairings) == pytest.approx(1 / 2, abs=1e-14)
    assert_simulated(schedule, pairings)


@pytest.mark.parametrize("n", [1, 2, 6, 8])
def test_one_peer_exponential_random_draws_the_offsets_of_the_exponential_graph(n):
    turns = [half_of(n, (np.arange(n) - 2**j) % n) for j in range((n - 1).bit_length())] or [np.eye(1)]
    schedule = one_peer_exponential_random(n, seed=4)
    drawn = dense(schedule, 60)
    assert {w.tobytes() for w in drawn} == {w.tobytes() for w in turns}
    assert_simulated(schedule, turns)


@pytest.mark.parametrize(
    "make",
    [
        random_matching,
        one_peer_exponential_random,
        equi_dynamic,
        lambda n, seed=0: equi_dynamic(n, directed=False, seed=seed),
    ],
)
def test_a_random_round_is_a_function_of_seed_and_round(make):
    once, again, other = make(12, seed=1), make(12, seed=1), make(12, seed=2)
    assert once.period is None
    late = [again.matrix(t).toarray() for t in reversed(range(20))][::-1]
    np.testing.assert_array_equal(dense(once, 20), late)
    assert (np.array(dense(other, 20)) != late).any()
    assert (np.array(late) != late[0]).any()
    assert all(is_doubly_stochastic(w) for w in late)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_periodic_averaging_puts_exact_averages_into_the_rounds_it_is_given(every):
    n = 6
    base = one_peer_exponential(n)
    schedule = periodic_averaging(base, every)
    assert schedule.period == math.lcm(3, every)
    mixed = np.eye(n)
    for t in range(2 * schedule.period):
        step = np.full((n, n), 1 / n) if t % every == every - 1 else base.matrix(t).toarray()
        np.testing.assert_array_equal(schedule.matrix(t).toarray(), step)
        mixed = step @ mixed
    np.testing.assert_allclose(mixed, product(schedule) @ product(schedule), atol=1e-15)
    assert period_rho(schedule) < 1e-15


def test_periodic_averaging_takes_matrices_connected_or_not_and_schedules_without_a_period():
    w = mixing_matrix(ring(6))
    mixed = np.full((6, 6), 1 / 6) @ np.linalg.matrix_power(w.toarray(), 3)
    np.testing.assert_allclose(product(periodic_averaging(w, 4)), mixed, atol=1e-15)
    alone = dense(periodic_averaging(np.eye(3), 2))
    np.testing.assert_array_equal(alone, [np.eye(3), np.full((3, 3), 1 / 3)])
    base = random_matching(5)
    schedule = periodic_averaging(base, 3)
    assert schedule.period is None
    for t in range(6):
        step = np.full((5, 5), 1 / 5) if t in (2, 5) else base.matrix(t).toarray()
        np.testing.assert_array_equal(schedule.matrix(t).toarray(), step)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_peer_exponential(0), "k-peer-exponential needs at least one worker (n = 0)"),
        (lambda: k_peer_exponential(4, 0), "k-peer-exponential needs an integer number of peers"),
        (lambda: k_peer_exponential(4, 4), "k-peer-exponential needs k < n (n = 4, k = 4); use k = 3"),
        (lambda: one_peer_hypercube(12), "needs a power of two (n = 12); use 8 or 16, or base-k"),
        (lambda: base_k(True), "base-k needs an integer number of workers (n = True)"),
        (lambda: base_k(4, 1.5), "base-k needs an integer number of peers, 1 or more (k = 1.5)"),
        (lambda: equi_static(0), "equi-static needs at least one worker (n = 0)"),
        (lambda: equi_static(8, degree=0), "equi-static needs a positive degree (degree = 0)"),
        (lambda: equi_static(8, degree=3, directed=False), "a positive even degree where it is undirected"),
        (lambda: equi_dynamic(0), "equi-dynamic needs at least one worker (n = 0)"),
        (lambda: random_matching(-1), "random-matching needs at least one worker (n = -1)"),
        (lambda: one_peer_exponential_random(0), "one-peer-exponential-random needs at least one worker"),
        (lambda: periodic_averaging(np.eye(2), 0), "an exact average every 0 rounds is not possible"),
        (lambda: periodic_averaging([[1, 1], [0, 1]], 2), "row 0 of the mixing matrix sums to 2"),
        (lambda: periodic_averaging(random_matching(5000), 2), "average of 5000 workers is a dense matrix"),
        (lambda: random_matching(4).matrix(-1), "rounds are counted from 0 (t = -1)"),
    ],
)
def test_a_schedule_that_breaks_a_rule_is_refused(call, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        call()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", topologies.SCHEDULES)
def test_a_schedule_can_be_sent_to_other_ranks(name):
    schedule = topologies.SCHEDULES[name](8)
    for one in (schedule, topologies.periodic_averaging(schedule, 3)):
        sent = pickle.loads(pickle.dumps(one))
        for t in range(5):
            assert (sent.matrix(t) != one.matrix(t)).nnz == 0
