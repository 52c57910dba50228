"""``decentral advise``: seconds, bytes and bias a round of each method on each graph of a cluster, beside all-reduces.

S: seconds of computing a round, g: of sending one vector along a graph, A: of the fastest all-reduce. A round takes

    max(S, e g) + l g + a A

for a method that sends e vectors which are ready before the gradient (adapt while combine: they travel meanwhile),
l vectors that need it first (adapt then combine), and a all-reduces a round (fewer than 1 where averages are rare).
g is the mean over a schedule's rounds of the slowest worker's seconds, in which all workers begin at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

import topologies
from decentral.algorithms.traits import traits_of
from decentral.commands.advise_methods import Candidate, candidates
from decentral.errors import UserError
from decentral.network.all_reduce import BY_HOSTS, all_reduce_s, host_size
from decentral.network.cluster import Cluster, round_s
from decentral.network.collectives import COLLECTIVES, mean_bytes_sent
from topologies import Schedule, named
from topologies.graphs import MOST_WORKERS

GRAPHS = (
    "ring", "torus", "hypercube", "tree", "exponential", "one-peer-exponential", "one-peer-hypercube", "base-k",
)  # fmt: skip
"""What is compared on every cluster; sparse, since all-reduce is the better way to hear from everyone."""

LARGEST = 1e18
"""Seconds, and bytes: beyond any cluster, and far from what a float cannot hold."""

HOST_GRAPHS = {"ring-of-cliques": "clique_size", "hierarchical": "group_size"}
"""What is compared where hosts have several workers, and the parameter that is then the workers of a host."""


@dataclass(frozen=True)
class Way:
    """One way to mix a vector: a graph or schedule, or an all-reduce.

    ``seconds`` and ``sent_bytes`` (mean and most over the workers) of one vector, in the mean over the rounds of a
    period. ``gap``: 1 - rho of the ``period``; ``exact``: a period averages exactly.
    """

    name: str
    all_reduce: bool
    seconds: float
    sent_bytes_mean: float
    sent_bytes_max: float
    gap: float
    period: int
    exact: bool


@dataclass(frozen=True)
class Row:
    """One method on one graph or all-reduce.

    ``bias``: see :func:`decentral.commands.advise_methods.bias_factor`; None where it is not known.
    """

    graph: str
    method: str
    seconds: float
    sent_bytes_mean: float
    gap: float
    period: int
    exact: bool
    bias: float | None


@dataclass(frozen=True)
class Advice:
    """The answer: ``ways``, fastest first; ``rows``, fastest first, then those that send least.

    ``left_out``: graph -> methods that are refused on it. ``meanwhile``: method -> the part of the vectors it gossips
    that travels while a round is computed, where there is some.
    """

    workers: int
    model_bytes: float
    compute_s: float
    ways: list[Way]
    rows: list[Row]
    left_out: dict[str, list[str]]
    meanwhile: dict[str, float]

    @property
    def all_reduce(self) -> Way:
        """The fastest."""
        return next(way for way in self.ways if way.all_reduce)


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is refused
def advise(cluster: Cluster, model_bytes: float, compute_s: float) -> Advice:
    """Rank methods on a cluster for a model of ``model_bytes`` and ``compute_s`` seconds of computing a round.

    Raises UserError if a number is out of range, or if not every two workers have a link.
    """
    if cluster.n < 2:
        raise UserError("one worker has nobody to talk to; advise needs a cluster of at least two workers")
    if cluster.n > MOST_WORKERS:
        raise UserError(f"workers = {cluster.n} is more than {MOST_WORKERS:,}; describe a smaller cluster")
    if not 0 < model_bytes <= LARGEST:
        raise UserError(
            f"model_bytes = {model_bytes:g} must be a positive number of bytes, {LARGEST:g} at most"
        )
    if not 0 <= compute_s <= LARGEST:
        raise UserError(f"compute_s = {compute_s:g} must be a number of seconds from 0 to {LARGEST:g}")
    reduces = sorted(all_reduces(cluster, model_bytes), key=lambda way: way.seconds)
    schedules = dict(_schedules(cluster.n, host_size(cluster)))
    gossips = [_gossip(name, schedule, cluster, model_bytes) for name, schedule in schedules.items()]
    if not all(way.seconds <= LARGEST for way in (*reduces, *gossips)):
        rule = f"takes more than {LARGEST:g} seconds; see to latency_s and bandwidth_bytes_s"
        raise UserError(f"a vector of {model_bytes:g} bytes {rule} of the cluster file")
    methods = candidates()
    rows, left_out = [], {}
    for one in (one for one in methods if not one.sends.gossip):
        compared = reduces if one.sends.averages >= 1 else reduces[:1]
        rows += [_row(one, way, way, compute_s) for way in compared]
    for way in gossips:
        asked = _asked(methods, schedules[way.name])
        refused = _refused(asked, way.name, cluster)
        left_out[way.name] = [one.label for one in refused]
        rows += [_row(one, way, reduces[0], compute_s) for one in asked if one not in refused]
    ways = sorted([*reduces, *gossips], key=lambda way: way.seconds)
    # of rows that take as long, the one that sends less, then the less biased
    rows.sort(
        key=lambda row: (row.seconds, row.sent_bytes_mean, float("inf") if row.bias is None else row.bias)
    )
    meanwhile = {one.label: one.sends.early / one.sends.gossip for one in methods if one.sends.early}
    return Advice(cluster.n, model_bytes, compute_s, ways, rows, left_out, meanwhile)


def all_reduces(cluster: Cluster, message_bytes: float) -> list[Way]:
    """All-reduces at the pace of the slowest link, hierarchical ones with the links inside hosts apart.

    Hierarchical and direct ones are there only where all hosts have as many workers, and more than one.
    """
    ways = []
    for name in COLLECTIVES:
        if name in BY_HOSTS and host_size(cluster) == 1:
            continue
        seconds = all_reduce_s(name, cluster, message_bytes)
        mean = mean_bytes_sent(name, cluster.n, message_bytes)
        most = (cluster.n - 1) * message_bytes if name == "parameter-server" else mean
        ways.append(Way(f"{name} all-reduce", True, seconds, mean, most, 1.0, 1, True))
    return ways


def resized(cluster: Cluster, n: int) -> Cluster:
    """A cluster of the same kind with n workers: hosts as large, and without links of single edges."""
    size = host_size(cluster)
    return replace(cluster, n=n, hosts=tuple(i // size for i in range(n)), edges=None)


def gossip_s(schedule: Schedule, cluster: Cluster, message_bytes: float) -> float:
    """Seconds of one vector along a schedule, in the mean over the rounds of its period."""
    turns = [round_s(schedule.matrix(t), cluster, message_bytes).max() for t in schedule.rounds]
    return float(np.mean(turns))


def built(name: str, n: int, size: int) -> Schedule | None:
    """A graph by name with n workers, ``size`` a host, as a schedule; None where there is none of so many."""
    given = {HOST_GRAPHS[name]: size} if name in HOST_GRAPHS else {}
    try:
        return named.mixing(named.build(name, n, **given))
    except ValueError:
        return None


def _schedules(n: int, size: int) -> Iterator[tuple[str, Schedule]]:
    for name in (*GRAPHS, *(HOST_GRAPHS if 1 < size < n else ())):
        schedule = built(name, n, size)
        if schedule is not None:
            yield name, schedule


def _gossip(name: str, schedule: Schedule, cluster: Cluster, message_bytes: float) -> Way:
    rho = _rho(schedule)
    turns = [schedule.matrix(t) for t in schedule.rounds]
    sent = np.mean([np.diff(w.tocsc().indptr) - (w.diagonal() != 0) for w in turns], axis=0) * message_bytes
    return Way(
        name=name,
        all_reduce=False,
        seconds=gossip_s(schedule, cluster, message_bytes),
        sent_bytes_mean=float(sent.mean()),
        sent_bytes_max=float(sent.max()),
        gap=1 - rho,
        period=len(turns),
        exact=rho == 0,
    )


def _rho(schedule: Schedule) -> float:
    """|W(period - 1) ... W(0) - 11'/n|, without a dense product where a period averages exactly."""
    x = np.random.default_rng(0).standard_normal((schedule.n, 3))
    apart = x - x.mean(0)
    for t in schedule.rounds:
        apart = schedule.matrix(t) @ apart
    if np.abs(apart).max() < 1e-12:  # exact on random vectors is exact on all, but with probability zero
        return 0.0
    if schedule.period == 1:
        return 1 - topologies.spectral_gap(schedule.matrix(0))
    return topologies.period_rho(schedule)


def _asked(methods: list[Candidate], schedule: Schedule) -> list[Candidate]:
    """Those that gossip; those that push only where edges are one-way, since elsewhere they do as their twins."""
    both_ways = all(topologies.is_symmetric(schedule.matrix(t)) for t in schedule.rounds)
    gossiping = [one for one in methods if one.sends.gossip]
    return [one for one in gossiping if not (both_ways and traits_of(one.method).pushes)]


def _refused(methods: list[Candidate], name: str, cluster: Cluster) -> list[Candidate]:
    """Methods that need what the graph has not, or whose differences grow on it; asked of few workers of the kind."""
    from decentral.rounds.trials.stability import refuses  # here: it imports torch

    size = host_size(cluster)
    schedule = built(name, _few(name, cluster.n, size), size)
    if schedule is None:
        raise RuntimeError(f"{name} exists for {cluster.n} workers, but not for fewer")
    return [one for one in methods if refuses(one.method, schedule)]


def _few(name: str, n: int, size: int) -> int:
    """A number of workers with the same arithmetic: a power of two, even, or odd; or four hosts."""
    if name in HOST_GRAPHS:
        return min(n, 4 * size)
    few = 16 if n & (n - 1) == 0 else 15 if n % 2 else 12
    return min(n, few)


def _row(one: Candidate, way: Way, all_reduce: Way, compute_s: float) -> Row:
    gossips, averages = not way.all_reduce, one.sends.averages
    sent = one.sends.gossip * way.sent_bytes_mean * gossips + averages * all_reduce.sent_bytes_mean
    return Row(
        graph=way.name,
        method=one.label,
        seconds=one.seconds(compute_s, way.seconds * gossips, all_reduce.seconds),
        sent_bytes_mean=sent,
        gap=way.gap,
        period=way.period if gossips else round(1 / averages),
        exact=way.exact,
        bias=one.bias(way.gap, way.period),
    )
