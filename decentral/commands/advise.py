"""``decentral advise``: seconds, bytes and bias a round of each method on each graph of a cluster, beside all-reduces.

S: seconds of computing a round, g: of sending one vector along a graph, A: of the fastest all-reduce. A round takes

    max(S, e g) + l g + a A

for a method that sends e vectors which are ready before the gradient (adapt while combine: they travel meanwhile),
l vectors that need it first (adapt then combine), and a all-reduces a round (1 / ``every`` where averages are rare).
g is the mean over a schedule's rounds of the slowest worker's seconds, in which all workers begin at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import topologies
from decentral.algorithms import ALGORITHMS
from decentral.errors import UserError
from decentral.network.all_reduce import all_reduce_s, host_size
from decentral.network.cluster import Cluster, round_s
from decentral.network.collectives import COLLECTIVES, mean_bytes_sent
from topologies import Schedule

GRAPHS = (
    "ring", "torus", "hypercube", "tree", "exponential", "one-peer-exponential", "one-peer-hypercube", "base-k",
)  # fmt: skip
"""What is compared on every cluster; sparse, since all-reduce is the better way to hear from everyone."""

HOST_GRAPHS = {"ring-of-cliques": "clique_size", "hierarchical": "group_size"}
"""What is compared where hosts have several workers, and the parameter that is then the workers of a host."""


@dataclass(frozen=True)
class Method:
    """What a round of a method sends, see the module, and where it rests.

    ``bias``: "none", "atc" or "awc" as DSGD's times ``amplification`` (of the squared bias), or "" where no term is
    known. ``stateless``: the term holds on mixing that changes, too.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    early: float = 0.0
    late: float = 0.0
    averages: float = 0.0
    bias: str = ""
    stateless: bool = True

    @property
    def label(self) -> str:
        """Its name and what is not default."""
        return " ".join([self.name, *map(str, self.settings.values())])

    @property
    def amplification(self) -> float:
        """1 / (1 - beta)^2 for DmSGD, at whose rest the local momentum is g / (1 - beta); else 1."""
        beta = self.build().momentum if self.name == "dmsgd" else 0.0
        return float(1 / (1 - beta) ** 2)

    def build(self) -> Any:
        """The method itself."""
        return ALGORITHMS[self.name](**self.settings)

    def seconds(self, compute_s: float, gossip_s: float, all_reduce_s: float) -> float:
        """Of a round, see the module."""
        return max(compute_s, self.early * gossip_s) + self.late * gossip_s + self.averages * all_reduce_s


def _every(name: str) -> float:
    return 1 / float(ALGORITHMS[name]().every)


METHODS = (
    Method("dsgd", late=1, bias="atc"),
    Method("dsgd", {"variant": "awc"}, early=1, bias="awc"),
    Method("dmsgd", late=1, bias="atc"),
    Method("dmsgd", {"variant": "awc"}, early=1, bias="awc"),
    Method("decentlam", late=1, bias="atc", stateless=False),
    Method("quasi-global", late=1, bias="atc", stateless=False),
    Method("d2", late=1, bias="none"),
    Method("exact-diffusion", late=1, bias="none"),
    Method("extra", early=1, bias="none"),
    Method("gradient-tracking", late=2, bias="none"),
    Method("diging", early=1, late=1, bias="none"),
    Method("momentum-tracking", early=1, late=1, bias="none"),
    Method("relay-sgd", late=1, bias="none"),
    Method("push-sum", late=1, bias="atc"),
    Method("push-diging", late=2, bias="none"),
    Method("gossip-pga", late=1 - _every("gossip-pga"), averages=_every("gossip-pga")),
    Method("slowmo", late=1, averages=_every("slowmo")),
)
"""Methods that gossip. Not here: those whose bytes depend on a compressor or a budget (choco, power-gossip, matcha)."""

EVERY_ROUND = Method("pmsgd", averages=1, bias="none")
"""The baseline, compared on every all-reduce."""

NOW_AND_THEN = (
    Method("local-sgd", averages=_every("local-sgd")),
    Method("diloco", averages=_every("diloco")),
)
"""Methods that need no graph either; they take the fastest all-reduce."""


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
    """One method on one graph or all-reduce; ``bias``: see :func:`bias_factor`, None where it is not known."""

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

    ``left_out``: graph -> methods that are refused on it.
    """

    workers: int
    model_bytes: float
    compute_s: float
    ways: list[Way]
    rows: list[Row]
    left_out: dict[str, list[str]]

    @property
    def all_reduce(self) -> Way:
        """The fastest."""
        return next(way for way in self.ways if way.all_reduce)


def advise(cluster: Cluster, model_bytes: float, compute_s: float) -> Advice:
    """Rank methods on a cluster for a model of ``model_bytes`` and ``compute_s`` seconds of computing a round.

    Raises UserError if a number is out of range, or if not every two workers have a link.
    """
    if cluster.n < 2:
        raise UserError("one worker has nobody to talk to; advise needs a cluster of at least two workers")
    if not 0 < model_bytes < float("inf"):
        raise UserError(f"model_bytes = {model_bytes:g} must be a positive number of bytes")
    if not 0 <= compute_s < float("inf"):
        raise UserError(f"compute_s = {compute_s:g} must be a number of seconds that is not negative")
    reduces = sorted(all_reduces(cluster, model_bytes), key=lambda way: way.seconds)
    schedules = dict(_schedules(cluster.n, host_size(cluster)))
    gossips = [_gossip(name, schedule, cluster, model_bytes) for name, schedule in schedules.items()]
    rows = [_row(EVERY_ROUND, way, way, compute_s) for way in reduces]
    rows += [_row(method, reduces[0], reduces[0], compute_s) for method in NOW_AND_THEN]
    left_out = {}
    for way in gossips:
        asked = _asked(schedules[way.name])
        refused = _refused(asked, way.name, cluster)
        left_out[way.name] = [method.label for method in refused]
        rows += [_row(method, way, reduces[0], compute_s) for method in asked if method not in refused]
    ways = sorted([*reduces, *gossips], key=lambda way: way.seconds)
    # of rows that take as long, the one that sends less, then the less biased
    rows.sort(
        key=lambda row: (row.seconds, row.sent_bytes_mean, float("inf") if row.bias is None else row.bias)
    )
    return Advice(cluster.n, model_bytes, compute_s, ways, rows, left_out)


def bias_factor(method: Method, gap: float, period: int) -> float | None:
    """The squared disagreement at rest is at most (lr b)^2 times this, to first order in lr; None if unknown.

    b^2 = (1/n) sum |grad f_i(x*)|^2. At rest x_i - mean = -lr sum_k (W_t ... W_{t-k+1} - 11'/n) grad f(x*), over k >= 1
    (atc) or k >= 0 (awc). Norms are at most 1, and rho = 1 - gap at k = period, so the sum of norms is at most
    (period - 1 + rho) / (1 - rho), or period / (1 - rho), at the end of a period; a static symmetric W reaches it.
    """
    if method.bias == "none":
        return 0.0
    if not method.bias or (period > 1 and not method.stateless) or gap <= 0:
        return None
    most = (period - gap if method.bias == "atc" else period) / gap
    return float(most**2 * method.amplification)


def all_reduces(cluster: Cluster, message_bytes: float) -> list[Way]:
    """All-reduces at the pace of the slowest link, hierarchical ones with the links inside hosts apart.

    Hierarchical is there only where all hosts have as many workers, and more than one.
    """
    ways = []
    for name in COLLECTIVES:
        if name == "hierarchical" and host_size(cluster) == 1:
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
    try:
        if name in topologies.SCHEDULES:
            return topologies.SCHEDULES[name](n)
        given = {HOST_GRAPHS[name]: size} if name in HOST_GRAPHS else {}
        graph = topologies.TOPOLOGIES[name](n, **given)
        rule = "uniform" if graph.is_directed() else "metropolis"
        return topologies.constant(topologies.mixing_matrix(graph, rule))
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


def _asked(schedule: Schedule) -> list[Method]:
    """All methods; those that push only where edges are one-way, since elsewhere they do as their twins."""
    if all(topologies.is_symmetric(schedule.matrix(t)) for t in schedule.rounds):
        return [method for method in METHODS if getattr(method.build(), "weights", "") != "push"]
    return list(METHODS)


def _refused(methods: list[Method], name: str, cluster: Cluster) -> list[Method]:
    """Methods that need what the graph has not, or whose differences grow on it; asked of few workers of the kind."""
    from decentral.rounds.trials.stability import refuses  # here: it imports torch

    size = host_size(cluster)
    schedule = built(name, _few(name, cluster.n, size), size)
    if schedule is None:
        raise RuntimeError(f"{name} exists for {cluster.n} workers, but not for fewer")
    return [method for method in methods if refuses(method.build(), schedule)]


def _few(name: str, n: int, size: int) -> int:
    """A number of workers with the same arithmetic: a power of two, even, or odd; or four hosts."""
    if name in HOST_GRAPHS:
        return min(n, 4 * size)
    few = 16 if n & (n - 1) == 0 else 15 if n % 2 else 12
    return min(n, few)


def _row(method: Method, way: Way, all_reduce: Way, compute_s: float) -> Row:
    gossips = not way.all_reduce
    vectors = method.early + method.late
    sent = vectors * way.sent_bytes_mean * gossips + method.averages * all_reduce.sent_bytes_mean
    return Row(
        graph=way.name,
        method=method.label,
        seconds=method.seconds(compute_s, way.seconds * gossips, all_reduce.seconds),
        sent_bytes_mean=sent,
        gap=way.gap,
        period=way.period if gossips else round(1 / method.averages),
        exact=way.exact,
        bias=bias_factor(method, way.gap, way.period),
    )
