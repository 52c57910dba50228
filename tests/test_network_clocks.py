"""Clocks of rounds of workers: against an event queue written here, and against published figures of waiting."""

from __future__ import annotations

import heapq
import itertools
import random

import numpy as np
import pytest
from scipy import sparse

import topologies
from decentral.errors import UserError
from decentral.network import COMPUTE_TIMES, Clocks, Cluster, Gossip, Together, round_s
from decentral.network.cluster import EdgeLinks
from topologies import Schedule

LOGNORMAL = COMPUTE_TIMES["lognormal"](median_s=1.0, sigma=0.8)
EXPONENTIAL = COMPUTE_TIMES["shifted-exponential"](mean_s=1.0)


class Rounds(Clocks):
    """Clocks whose rounds are all of one kind: gossip along a schedule or a matrix, or a collective."""

    def __init__(self, rounds, cluster, compute, message_bytes=0.0, overlap=False, seed=0):
        super().__init__(cluster, compute, seed)
        if not isinstance(rounds, Together):
            schedule = (
                rounds
                if isinstance(rounds, Schedule)
                else Schedule(cluster.n, 1, lambda t: sparse.csr_array(rounds))
            )
            gossip = Gossip(schedule, cluster)
        self.phase = lambda t: rounds if isinstance(rounds, Together) else gossip.phase(t, message_bytes)
        self.overlap = overlap

    def next(self):
        phases = [self.phase(self.round)]
        return self.advance(self.round, *(((), phases) if self.overlap else (phases,)))

    def run(self, rounds):
        for _ in range(rounds):
            self.next()
        return self.time_s


class EventQueue:
    """Workers as state machines: they compute, hand messages to their card, and wait; nothing of max-plus here.

    ``receivers(t, i)``: whom i sends to in round t. ``link(i, j)``: (latency, seconds of the message's bytes).
    ``compute(t, i)``: seconds. ``ended[i][t]``: when worker i had finished round t.
    """

    def __init__(self, n, rounds, receivers, link, compute, ports, overlap):
        self.n, self.rounds, self.receivers, self.link = n, rounds, receivers, link
        self.compute, self.ports, self.overlap = compute, ports, overlap
        self.senders = [[0] * n for _ in range(rounds)]  # how many messages a worker waits for
        for t, i in itertools.product(range(rounds), range(n)):
            for j in receivers(t, i):
                self.senders[t][j] += 1
        self.round = [0] * n
        self.computing = [True] * n
        self.undelivered = [0] * n
        self.inbox = [[0] * rounds for _ in range(n)]  # a neighbour may be rounds ahead
        self.ended = [[] for _ in range(n)]
        self.card = [[] for _ in range(n)]  # messages that wait for the card
        self.events, self.count = [], itertools.count()
        for i in range(n):
            self.begin(0.0, i)
        while self.events:
            now, _, what, i, j, t = heapq.heappop(self.events)
            getattr(self, what)(now, i, j, t)

    def at(self, time, what, i, j=0, t=0):
        heapq.heappush(self.events, (time, next(self.count), what, i, j, t))

    def begin(self, now, i):
        self.computing[i] = True
        self.undelivered[i] = len(self.receivers(self.round[i], i))
        self.at(now + self.compute(self.round[i], i), "computed", i)
        if self.overlap:
            self.send(now, i)

    def computed(self, now, i, j, t):
        self.computing[i] = False
        if not self.overlap:
            self.send(now, i)
        self.look(now, i)

    def send(self, now, i):
        t = self.round[i]
        if self.ports == "multi":
            for j in self.receivers(t, i):
                self.at(now + sum(self.link(i, j)), "delivered", i, j, t)
        else:
            self.card[i] = sorted(self.receivers(t, i))
            self.card_is_free(now, i, 0, t)

    def card_is_free(self, now, i, j, t):
        if not self.card[i]:
            return
        j = self.card[i].pop(0)
        latency, transfer = self.link(i, j)
        self.at(now + transfer + latency, "delivered", i, j, t)
        if self.ports == "shared":
            self.at(now + transfer, "card_is_free", i, 0, t)

    def delivered(self, now, i, j, t):
        self.inbox[j][t] += 1
        self.undelivered[i] -= 1
        if self.ports == "one":
            self.card_is_free(now, i, 0, t)
        self.look(now, i)
        if i != j:
            self.look(now, j)

    def look(self, now, i):
        """Whether worker i's round is over."""
        t = self.round[i]
        if t == self.rounds or self.computing[i] or self.undelivered[i]:
            return
        if self.inbox[i][t] == self.senders[t][i]:
            self.ended[i].append(now)
            self.round[i] += 1
            if self.round[i] < self.rounds:
                self.begin(now, i)


def neighbours_of(schedule):
    """``receivers(t, i)`` of a schedule, from dense matrices."""
    dense = {}

    def receivers(t, i):
        key = t if schedule.period is None else t % schedule.period
        if key not in dense:
            w = schedule.matrix(t).toarray()
            dense[key] = [[j for j in range(len(w)) if j != k and w[j, k]] for k in range(len(w))]
        return dense[key][i]

    return receivers


def digraph(n, seed):
    """A directed cycle and random edges besides: degrees differ, and in differs from out."""
    rng = np.random.default_rng(seed)
    w = (rng.random((n, n)) < 0.2).astype(float) + np.eye(n) + np.roll(np.eye(n), 1, 0)
    return topologies.constant(w / w.sum(axis=1, keepdims=True))


def static(graph):
    return topologies.constant(topologies.mixing_matrix(graph, "uniform"))


SCHEDULES = {
    "ring": static(topologies.ring(8)),
    "torus": static(topologies.torus(12)),
    "star": static(topologies.star(7)),
    "exponential": static(topologies.exponential(10)),
    "one-peer": topologies.one_peer_exponential(8),
    "digraph": digraph(11, 0),
    "matching": topologies.random_matching(
        9, seed=3
    ),  # one worker of nine has no peer, and rounds never repeat
    "alone": topologies.constant(np.eye(1)),
}


def varied(n, ports):
    """A cluster all of whose directed links differ."""
    rng = np.random.default_rng(n)
    edges = EdgeLinks(np.arange(n * n), rng.uniform(0.0, 0.5, n * n), 10.0 ** rng.uniform(0, 2, n * n))
    return Cluster(n, tuple(range(n)), ports, None, edges=edges)


def event_queue(schedule, cluster, message_bytes, model, rounds, overlap, seed):
    n = cluster.n
    latency = cluster.edges.latency_s.reshape(n, n)
    bandwidth = cluster.edges.bandwidth_bytes_s.reshape(n, n)
    drawn = [model.draw(t, range(n), seed) for t in range(rounds)]
    return EventQueue(
        n,
        rounds,
        neighbours_of(schedule),
        lambda i, j: (latency[i, j], message_bytes / bandwidth[i, j]),
        lambda t, i: drawn[t][i],
        cluster.ports,
        overlap,
    )


@pytest.mark.parametrize("overlap", [False, True], ids=["ATC", "AWC"])
@pytest.mark.parametrize("ports", ["one", "multi", "shared"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_clocks_are_those_of_an_event_queue(name, ports, overlap):
    schedule, rounds, size = SCHEDULES[name], 25, 3.0
    cluster = varied(schedule.n, ports)
    clocks = Rounds(schedule, cluster, LOGNORMAL, size, overlap, seed=5)
    ours = np.array([clocks.next() for _ in range(rounds)])
    simulated = event_queue(schedule, cluster, size, LOGNORMAL, rounds, overlap, 5)
    np.testing.assert_allclose(ours.T, simulated.ended, rtol=0, atol=1e-9)
    np.testing.assert_allclose(clocks.compute_s + clocks.wait_s, clocks.time_s, rtol=0, atol=1e-9)
    drawn = sum(LOGNORMAL.draw(t, range(schedule.n), 5) for t in range(rounds))
    np.testing.assert_allclose(clocks.compute_s, drawn, rtol=1e-12)


@pytest.mark.parametrize("ports", ["one", "multi", "shared"])
def test_a_round_without_compute_is_one_of_the_event_queue(ports):
    for schedule in SCHEDULES.values():
        cluster = varied(schedule.n, ports)
        still = COMPUTE_TIMES["constant"](compute_s=0.0)
        simulated = event_queue(schedule, cluster, 2.0, still, 1, False, 0)
        ours = round_s(schedule.matrix(0), cluster, 2.0)
        np.testing.assert_allclose(ours, [ended[0] for ended in simulated.ended], rtol=0, atol=1e-12)


# 100 MB, 50 us, 10 Gb/s: a message is 80 ms on the wire
@pytest.mark.parametrize(
    ("ports", "formula"),
    [
        ("one", lambda d, alpha, transfer: d * (alpha + transfer)),
        ("multi", lambda d, alpha, transfer: alpha + transfer),
        ("shared", lambda d, alpha, transfer: alpha + d * transfer),
    ],
)
@pytest.mark.parametrize(("graph", "degree"), [("ring", 2), ("exponential", 4), ("complete", 15)])
def test_equal_links_give_the_formula_of_the_ports(graph, degree, ports, formula):
    w = topologies.mixing_matrix(topologies.TOPOLOGIES[graph](16), "uniform")
    took = round_s(w, Cluster.uniform(16, 50e-6, 1.25e9, ports), 1e8)
    np.testing.assert_allclose(took, formula(degree, 50e-6, 0.08), rtol=1e-12)


def test_overlap_hides_the_shorter_of_compute_and_communication():
    cluster, w = Cluster.uniform(8, 0.5, 4.0), SCHEDULES["ring"]  # two messages of 2 bytes: 2 s
    for compute_s in (0.7, 5.0):
        model = COMPUTE_TIMES["constant"](compute_s=compute_s)
        np.testing.assert_allclose(Rounds(w, cluster, model, 2.0).run(10), 10 * (compute_s + 2.0))
        np.testing.assert_allclose(
            Rounds(w, cluster, model, 2.0, overlap=True).run(10), 10 * max(compute_s, 2.0)
        )


def test_one_slow_worker_slows_all_to_its_rate():
    model = COMPUTE_TIMES["one-slow-worker"](compute_s=1.0, factor=3.0, worker=2)
    clocks = Rounds(SCHEDULES["ring"], Cluster.uniform(8, 0.0, float("inf")), model, 1.0)
    begun = clocks.run(10).copy()
    np.testing.assert_allclose(clocks.run(20) - begun, 60.0)
    assert clocks.round == 30
    assert clocks.wait_s[2] == 0
    np.testing.assert_allclose(
        clocks.wait_s[6], 3 * 27 + 3 - 30
    )  # 27 slow rounds in a row, and 3 hops further


def harmonic(n):
    return sum(1 / k for k in range(1, n + 1))


# Mean seconds a round with Exp(1) compute and links that cost nothing, each to about 1 %
RATES = {
    "ring": {8: 2.18, 16: 2.28, 32: 2.32},
    "one-peer": {8: 1.99, 16: 2.12, 32: 2.22},
    "exponential": {8: 2.37, 16: 2.73, 32: 3.05},
    "all-reduce": {8: harmonic(8), 16: harmonic(16), 32: harmonic(32)},
}


def schedule_of(kind, n):
    if kind == "one-peer":
        return topologies.one_peer_exponential(n)
    return static({"ring": topologies.ring, "exponential": topologies.exponential}[kind](n))


def cycle_s(kind, n, rounds=1_000, begin=200):
    """Seconds a round after the first ones, in the mean over replicas: groups of workers that never meet."""
    if kind == "all-reduce":
        clocks, rounds = Rounds(Together(0.0), _free(n), EXPONENTIAL, 1.0, seed=1), 20_000
    else:
        copies, one = sparse.eye_array(2_560 // n), schedule_of(kind, n)
        many = Schedule(2_560, one.period, lambda t: sparse.csr_array(sparse.kron(copies, one.matrix(t))))
        clocks = Rounds(many, _free(2_560), EXPONENTIAL, 1.0, seed=1)
    early = clocks.run(begin).mean()
    return (clocks.run(rounds - begin).mean() - early) / (rounds - begin)


def _free(n):
    return Cluster.uniform(n, 0.0, float("inf"))


@pytest.mark.parametrize("n", [8, 16, 32])
@pytest.mark.parametrize("kind", RATES)
def test_random_compute_times_cost_what_is_known(kind, n):
    assert cycle_s(kind, n) == pytest.approx(RATES[kind][n], rel=0.015)


@pytest.mark.parametrize("kind", ["ring", "one-peer", "exponential"])
def test_random_compute_times_cost_what_the_event_queue_says(kind):
    n, rounds, begin = 16, 4_000, 100
    rng = random.Random(7)  # numbers of its own
    queue = EventQueue(
        n,
        rounds,
        neighbours_of(schedule_of(kind, n)),
        lambda i, j: (0.0, 0.0),
        lambda t, i: rng.expovariate(1.0),
        "multi",
        False,
    )
    mean = np.mean(queue.ended, axis=0)
    assert cycle_s(kind, n) == pytest.approx((mean[-1] - mean[begin]) / (rounds - 1 - begin), rel=0.02)


def test_an_all_reduce_is_a_barrier_and_its_own_time():
    cluster, rounds = Cluster.uniform(6, 1.0, 1.0), 12
    drawn = np.array([LOGNORMAL.draw(t, range(6), 9) for t in range(rounds)])
    clocks = Rounds(Together(0.25), cluster, LOGNORMAL, 1e6, seed=9)
    np.testing.assert_allclose(clocks.run(rounds), drawn.max(axis=1).sum() + 0.25 * rounds)
    own, everyone = np.zeros(6), 0.0
    for seconds in drawn:  # the collective runs while they compute
        everyone, own = own.max() + 0.25, own + seconds
        own = np.maximum(own, everyone)
    hidden = Rounds(Together(0.25), cluster, LOGNORMAL, 1e6, overlap=True, seed=9)
    np.testing.assert_allclose(hidden.run(rounds), own)


def test_clocks_are_a_function_of_the_seed():
    def run(seed):
        return Rounds(SCHEDULES["torus"], varied(12, "one"), LOGNORMAL, 1.0, seed=seed).run(20)

    np.testing.assert_array_equal(run(3), run(3))
    assert (run(3) != run(4)).all()


def test_a_round_can_be_entered_anew():
    """A clock that is set to where another was goes on as that one did."""
    first, second = (Rounds(SCHEDULES["one-peer"], varied(8, "one"), LOGNORMAL, 1.0) for _ in range(2))
    second.time_s, second.round = first.run(7).copy(), 7
    np.testing.assert_array_equal(second.next(), first.next())
    assert second.round == 8


def broken(links):
    """A ring of four on a cluster that knows one edge only."""
    edges = EdgeLinks(np.array(links), np.zeros(len(links)), np.ones(len(links)))
    return Cluster(4, (0, 1, 2, 3), "one", None, edges=edges)


RING = topologies.mixing_matrix(topologies.ring(4))
CASES = {
    "the graph has 4 workers and the cluster 8": lambda: Rounds(
        RING, Cluster.uniform(8, 0, 1), LOGNORMAL, 1.0
    ),
    "the graph has 9 workers and the cluster 8": lambda: Rounds(
        topologies.random_matching(9, seed=0), Cluster.uniform(8, 0, 1), LOGNORMAL, 1.0
    ),
    "no link from worker 0 to worker 3": lambda: Rounds(RING, broken([1]), LOGNORMAL, 1.0),
    "no link from worker 0 to worker 1": lambda: round_s(RING, broken([]), 1.0),
    "message_bytes = -1.0 must": lambda: Rounds(RING, Cluster.uniform(4, 0, 1), LOGNORMAL, -1.0).run(1),
    "message_bytes = nan must": lambda: round_s(RING, Cluster.uniform(4, 0, 1), float("nan")),
    "worker = 4 is none of 4 workers": lambda: Rounds(
        RING, Cluster.uniform(4, 0, 1), COMPUTE_TIMES["one-slow-worker"](1.0, 2.0, 4), 1.0
    ),
    "all-reduce of -1.0 s must": lambda: Rounds(Together(-1.0), Cluster.uniform(4, 0, 1), LOGNORMAL, 1.0),
}


@pytest.mark.parametrize("message", CASES)
def test_what_does_not_fit_is_refused_before_any_round(message):
    with pytest.raises(UserError, match=message) as refused:
        CASES[message]()
    assert "\n" not in str(refused.value)


def test_isolated_workers_wait_for_nobody():
    clocks = Rounds(np.eye(5), Cluster.uniform(5, 1.0, 1.0), LOGNORMAL, 1.0)
    clocks.run(10)
    np.testing.assert_array_equal(clocks.wait_s, 0)
