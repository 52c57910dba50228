"""Asynchronous gossip on the virtual clock: against an event queue written here; what is kept, ends and repeats."""

import heapq
import itertools
import json
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from asynchronous_workers import models, played
from command import but_wall_time, decentral, experiment, read_csv, write

import topologies
from decentral.algorithms.asynchronous import ADPSGD, AsyncLocalSGD, AsyncPushSum
from decentral.comm.world import LocalWorld
from decentral.network import COMPUTE_TIMES, Clocks, Cluster, Gossip
from decentral.network.cluster import messages
from decentral.report.columns import COLUMNS
from decentral.report.staleness import bars
from decentral.runs.asynchronous.cards import Cards
from decentral.runs.asynchronous.control import Controller
from decentral.runs.asynchronous.neighbours import edges_of
from decentral.runs.asynchronous.training import execute
from decentral.runs.experiment import expand
from decentral.runs.folder import RunFolder
from decentral.runs.journal import Journal
from decentral.runs.place import Here, place_of
from decentral.runtime import Channel
from topologies.streams import stream

METHODS = {"ad-psgd": ADPSGD(), "async-local-sgd": AsyncLocalSGD(3), "async-push-sum": AsyncPushSum(0.05, 4)}
GRAPHS = {"ring": topologies.ring(5), "star": topologies.star(6), "complete": topologies.complete(5)}
DIRECTED = topologies.exponential(6)


def weights(method, graph):
    return topologies.mixing_matrix(graph, getattr(method, "weights", "metropolis"))


def lognormal(i, k):
    """Seconds of worker i's k-th gradient: no two events at one time."""
    return float(np.random.default_rng((7, i, k)).lognormal(0, 0.7))


def clusters(n, ports):
    """Links that are all different."""
    cluster = Cluster.uniform(n, 0.0, 1.0, ports)
    rng = np.random.default_rng(3)
    latency, bandwidth = rng.uniform(0.1, 2, (n, n)), rng.uniform(20, 200, (n, n))
    object.__setattr__(cluster, "latency_s", lambda i, j: latency[i, j])
    object.__setattr__(cluster, "bandwidth_bytes_s", lambda i, j: bandwidth[i, j])
    return cluster, latency, bandwidth


class Queue:
    """The same workers as plain lists and an event queue in numpy: nothing of the package but its random draws.

    Two sorts of event: a gradient is ready, a message is there. ``steps``: when all have made so many, it is over.
    """

    def __init__(self, method, w, x, lr, a, c, latency, bandwidth, ports, steps, seed=0):
        self.method, self.w, self.lr, self.a, self.c, self.seed = method, w.toarray(), lr, a, c, seed
        self.latency, self.bandwidth, self.ports = latency, bandwidth, ports
        n = self.n = len(x)
        self.pushes = isinstance(method, AsyncPushSum)
        self.every, self.name = (
            getattr(method, "every", 1),
            "ad-psgd" if method == ADPSGD() else "async-local-sgd",
        )
        self.x, self.weight = [row.copy() for row in x], [1.0] * n
        self.k, self.asked, self.lags = [0] * n, [None] * n, Counter()
        self.inbox = [defaultdict(list) for _ in range(n)]
        self.card, self.line = [0.0] * n, defaultdict(float)
        self.under_way, self.held, self.added = (
            Counter(),
            0,
            defaultdict(list),
        )  # own steps when a share was sent
        self.bytes, self.count, self.events = 8 * x.shape[1], itertools.count(), []
        for i in range(n):
            self.begin(0.0, i)
        total = 0
        while total < steps:
            now, _, kind, i, *rest = heapq.heappop(self.events)
            if kind == "message":
                self.inbox[i][rest[0]].append(rest[1])
                continue
            self.lags.update(self.k[i] - sent_at for sent_at in self.added[i])
            self.added[i].clear()
            for j in sorted(self.inbox[i]):
                for said in self.inbox[i][j]:
                    self.receive(now, i, j, said)
                self.inbox[i][j].clear()
            self.step(now, i, rest[0])
            total += 1
            self.begin(now, i)
        self.now = now

    def begin(self, now, i):
        z = self.x[i] / self.weight[i]
        g = self.a[i] * (z - self.c[i])
        heapq.heappush(self.events, (now + lognormal(i, self.k[i]), next(self.count), "gradient", i, g))

    def send(self, now, i, j, said, size):
        seconds = size / self.bandwidth[i, j]
        if self.ports == "one":
            self.card[i] = max(now, self.card[i]) + self.latency[i, j] + seconds
            at = self.card[i]
        elif self.ports == "shared":
            self.card[i] = max(now, self.card[i]) + seconds
            at = self.card[i] + self.latency[i, j]
        else:
            self.line[i, j] = max(now, self.line[i, j]) + seconds
            at = self.line[i, j] + self.latency[i, j]
        heapq.heappush(self.events, (at, next(self.count), "message", j, i, said))

    def step(self, now, i, g):
        others = [j for j in range(self.n) if j != i and self.w[j, i]]
        self.x[i] = self.x[i] - self.lr * self.weight[i] * g
        self.k[i] += 1
        if self.pushes:
            full = any(self.under_way[i, j] >= self.method.most_under_way for j in others)
            if self.weight[i] < self.method.least_weight or full:
                self.held += 1
                return
            for j in others:
                share = self.w[j, i]
                self.under_way[i, j] += 1
                self.send(now, i, j, (self.x[i] * share, self.weight[i] * share, self.k[i]), self.bytes + 8)
            self.x[i], self.weight[i] = self.x[i] * self.w[i, i], self.weight[i] * self.w[i, i]
        elif self.asked[i] is None and self.k[i] % self.every == 0:
            j = others[int(stream(self.seed, self.name, i, self.k[i] - 1).integers(len(others)))]
            self.asked[i] = j, self.x[i].copy(), self.k[i]
            self.send(now, i, j, ("ask", self.x[i].copy()), self.bytes)

    def receive(self, now, i, j, said):
        if self.pushes:
            self.x[i], self.weight[i] = self.x[i] + said[0], self.weight[i] + said[1]
            self.added[j].append(said[2])
            self.under_way[j, i] -= 1  # nobody acts at this very moment
            return
        kind, v = said
        if kind == "ask" and not (self.asked[i] and self.asked[i][0] == j):
            d = (self.x[i] - v) / 2
            self.x[i] = self.x[i] - d
            self.send(now, i, j, ("answer", d), self.bytes)
            return
        _, mine, k = self.asked[i]
        self.x[i] = self.x[i] + ((v - mine) / 2 if kind == "ask" else v)
        self.asked[i] = None
        self.lags[self.k[i] - k] += 1


@pytest.mark.parametrize("ports", ["one", "shared", "multi"])
@pytest.mark.parametrize("name", METHODS)
def test_workers_do_what_a_plain_event_queue_does(name, ports):
    method, rng = METHODS[name], np.random.default_rng(1)
    graph = DIRECTED if name == "async-push-sum" else GRAPHS["star"]
    w, n, d, rounds = weights(method, graph), 6, 4, 40
    x, c, a = rng.standard_normal((n, d)), rng.standard_normal((n, d)), rng.uniform(0.5, 2, (n, d))
    cluster, latency, bandwidth = clusters(n, ports)
    theirs = Queue(method, w, x, 0.1, a, c, latency, bandwidth, ports, rounds * n)
    run = played(method, w, x, rounds, lr=0.1, compute=lognormal, cluster=cluster, a=a, c=c)
    moments = {number: (now, copies) for number, _, now, copies in run.seen}
    assert moments[n][0] == pytest.approx(theirs.now, rel=1e-12)  # when the controller has counted all steps
    ours = torch.cat([moments[i][1][0] for i in range(n)]).numpy()
    assert ours == pytest.approx(np.stack(theirs.x) / np.array(theirs.weight)[:, None], rel=1e-12, abs=1e-12)
    assert [worker.t for worker in run.workers] == theirs.k
    assert len(set(theirs.k)) > 1
    assert sum((moments[i][1][1] for i in range(n)), Counter()) == theirs.lags
    assert theirs.lags.total() > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_mean_moves_by_gradients_only_and_every_message_is_answered(name, graph):
    method, w = METHODS[name], weights(METHODS[name], GRAPHS[graph])
    n, rng = w.shape[0], np.random.default_rng(2)
    x, c = rng.standard_normal((n, 3)), rng.standard_normal((n, 3))
    for compute in (None, lognormal, lambda i, k: 0.0, lambda i, k: 10.0 if i == 0 else 1.0):
        for latency_s in (0.0, 0.3, 7.0):
            cluster = Cluster.uniform(n, latency_s, 100.0, "shared")
            still = played(method, w, x, 12, compute=compute, cluster=cluster)
            sums = sum(worker.side.x for worker in still.workers).numpy()[0]
            assert sums == pytest.approx(x.sum(0), abs=1e-13)
            if name == "async-push-sum":
                assert sum(float(worker.side.w) for worker in still.workers) == pytest.approx(n, rel=1e-13)
            moved = played(method, w, x, 12, lr=0.1, compute=compute, cluster=cluster, c=c)
            if name != "async-push-sum":
                given = sum(sum(k.objective.given[: k.t]) for k in moved.workers).numpy()[0]
                assert models(moved).sum(0) == pytest.approx(x.sum(0) - 0.1 * given, abs=1e-12)
            for run in (still, moved):
                assert run.controller.asked == run.controller.answered > 0
                assert 12 * n <= run.controller.steps < 13 * n
                assert not any(line.queue for line in run.clock._lines.values())  # nothing is left over


def test_sums_are_kept_to_the_last_bit_where_numbers_are_exact():
    """Whole numbers, and few enough averages that every half fits into 53 bits."""
    x = np.random.default_rng(0).integers(-8, 8, (5, 7)).astype(float)
    for graph in GRAPHS.values():
        start = np.vstack([x, x[:1]])[: len(graph)]
        run = played(ADPSGD(), topologies.mixing_matrix(graph), start, 6, compute=lognormal)
        assert run.controller.answered > 8
        assert (models(run).sum(0) == start.sum(0)).all()
        assert not (models(run) == start).all()


@pytest.mark.slow
@pytest.mark.parametrize("latency_s", [0.0, 0.5, 1.5, 20.0])
@pytest.mark.parametrize("compute", [None, lognormal], ids=["in step", "random"])
def test_workers_come_together_however_late_messages_are(latency_s, compute):
    for graph in (topologies.path(2), topologies.ring(5), topologies.complete(6), topologies.star(6)):
        x = np.random.default_rng(4).standard_normal((len(graph), 20))
        cluster = Cluster.uniform(len(graph), latency_s, float("inf"), "multi")
        run = played(ADPSGD(), topologies.mixing_matrix(graph), x, 120, compute=compute, cluster=cluster)
        apart = ((models(run) - x.mean(0)) ** 2).sum()
        assert apart < 0.1 * ((x - x.mean(0)) ** 2).sum()


def slow(i, k):
    return (10.0 if i == 0 else 1.0) * float(np.random.default_rng((i, k)).lognormal(0, 0.1))


def test_ad_psgd_goes_where_fast_workers_want_and_push_sum_where_all_do():
    """Identity Hessians: the optimum is the mean of c, that of the workers' speeds a weighted one."""
    n = 6
    c = np.random.default_rng(0).standard_normal((n, 3))
    found = {}
    for name, method, graph in (
        ("ad-psgd", ADPSGD(), topologies.ring(n)),
        ("push", AsyncPushSum(), DIRECTED),
    ):
        w = weights(method, graph)
        run = played(method, w, np.zeros((n, 3)), 400, lr=0.02, compute=slow, c=c)
        steps = np.array([worker.t for worker in run.workers])
        assert steps[0] < steps[1:].min() / 8
        found[name] = models(run)
    by_speed = (steps[:, None] * c).sum(0) / steps.sum()
    assert np.linalg.norm(by_speed - c.mean(0)) > 0.15
    assert np.linalg.norm(found["ad-psgd"].mean(0) - by_speed) < 0.02
    assert np.linalg.norm(found["push"].mean(0) - c.mean(0)) < 0.02
    assert max(((z - z.mean(0)) ** 2).sum(1).mean() for z in found.values()) < 0.02


def test_a_weight_does_not_vanish_where_neighbours_sleep():
    """Worker 0 makes a thousand steps before anybody answers; in float32 its weight would be 0 after two hundred."""
    w = topologies.mixing_matrix(topologies.ring(4), "push")
    run = played(
        AsyncPushSum(0.05, 10_000),
        w,
        np.ones((4, 2)),
        300,
        lr=0.1,
        compute=lambda i, k: 1.0 if i == 0 else 900.0,
    )
    assert run.workers[0].t > 1000
    assert float(run.workers[0].side.w) > 0.01
    assert np.isfinite(models(run)).all()


@pytest.mark.parametrize("ports", ["one", "shared", "multi"])
def test_cards_are_those_of_a_round_where_all_messages_leave_at_once(ports):
    w = topologies.mixing_matrix(topologies.star(5))
    cluster, _, _ = clusters(5, ports)
    expected = messages(w, cluster, 300.0)
    cards = Cards(cluster, edges_of(topologies.constant(w)))

    lines = defaultdict(lambda: SimpleNamespace(free_at_s=0.0))
    cards.clock = SimpleNamespace(now=2.0, line=lines.__getitem__)
    for receiver in range(5):
        at = expected.first[receiver]
        end = expected.first[receiver + 1] if receiver < 4 else len(expected.sender)
        arrived = dict(zip(expected.sender[at:end], expected.delay_s[at:end], strict=True))
        for sender in arrived.keys() - {receiver}:
            if sender == 0 and ports != "multi":
                cards.free_s[0] = 0.0  # once more, in the order of receivers
                order = range(1, receiver + 1)
            else:
                order = [receiver]
            for target in order:
                channel = Channel(sender, target, "models")
                lines.pop(channel, None)
                occupied_s, delay_s = cards(channel, 300)
            assert 2.0 + occupied_s + delay_s == pytest.approx(2.0 + arrived[sender], rel=1e-12)


def test_a_slow_worker_holds_up_rounds_and_not_ad_psgd():
    w, rounds = topologies.mixing_matrix(topologies.ring(8)), 100
    compute, cluster = COMPUTE_TIMES["one-slow-worker"](1.0, 10.0), Cluster.uniform(8, 0.01, 1e6)
    clocks, gossip = Clocks(cluster, compute), Gossip(topologies.constant(w), cluster)
    for t in range(rounds):
        clocks.advance(t, [gossip.phase(t, 80.0)])
    in_step = clocks.time_s.max()
    run = played(
        ADPSGD(), w, np.zeros((8, 10)), rounds, compute=lambda i, k: compute.draw(k, range(i, i + 1), 0)[0],
        cluster=cluster,
    )  # fmt: skip
    (alone,) = [now for number, _, now, _ in run.seen if number == 8]
    assert in_step == pytest.approx(10 * rounds, rel=0.01)
    # 7 workers make a step a second and one a tenth: 7.1 a second for 800
    assert alone == pytest.approx(800 / 7.1, rel=0.02)


def control(steps, **more):
    """What the controller of two workers yields when these workers report steps, one after the other, and end."""
    controller = Controller(2, **{"marks": [2, 4], "lr": lambda t: 0.1, **more})
    program, said = controller.run(), []
    request = next(program)
    reports = iter([(Channel(i, 2, "control"), (0, loss)) for i, loss in steps])
    while True:
        try:
            if type(request).__name__ == "RecvAny":
                got = next(reports, None)
                if got is None:
                    reports = iter([(Channel(i, 2, "control"), (1, 3, 3)) for i in range(2)])
                    got = next(reports)
                request = program.send(got)
            else:
                said.append(
                    (request.t,) if hasattr(request, "t") else (request.channel.target, request.value)
                )
                request = program.send(None)
        except StopIteration:
            return controller, said


def test_the_controller_asks_at_marks_skips_what_is_past_and_stops_at_the_budget():
    controller, said = control([(0, 1.0)] * 8)
    assert said == [
        (2,), (0, (0, 2)), (1, (0, 2)), (4,), (0, (0, 4)), (1, (0, 4)), (0, (2,)), (1, (2,)),
    ]  # fmt: skip
    assert (controller.asked, controller.answered, controller.trouble) == (6, 6, "")
    _, said = control([(0, 1.0)] * 8, marks=[1, 4], lr=lambda t: 0.1 if t < 3 else 0.01)
    assert [words for who, words in (s for s in said if len(s) == 2) if who == 0] == [
        (0, 1), (1, 0.01), (0, 4), (2,),
    ]  # fmt: skip


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 2e10])
def test_the_controller_stops_where_a_loss_blows_up(loss):
    controller, said = control([(0, 1.0), (1, 1.0), (0, loss)])
    assert "worker 0: its loss is" in controller.trouble
    assert said == [(0, (2,)), (1, (2,))]


@pytest.mark.parametrize(
    ("problem", "train"),
    [
        ({"name": "quadratic", "noise": 0.3}, {}),
        ({"name": "quadratic", "diagonal": True}, {}),
        ({"name": "linear-regression"}, {"batch_size": 4}),
        ({"name": "linear-regression"}, {"batch_size": "full"}),
        ({"name": "logistic-regression"}, {"batch_size": 8}),
        ({"name": "mlp", "hidden": [8], "partition": "shards"}, {"batch_size": "full"}),
    ],
    ids=str,
)
def test_a_worker_alone_has_the_gradients_that_it_has_among_others(problem, train):
    train = {"lr": 0.1, "rounds": 5, "dtype": "float64", **train}
    table = {
        "name": "a", "seeds": [3], "problem": problem, "topology": {"name": "ring", "workers": 4},
        "algorithm": {"name": "ad-psgd"}, "train": train,
    }  # fmt: skip
    (planned,) = expand(table).runs
    whole = planned.config.problem.build(place_of(planned.config, range(4), torch.device("cpu"), "loop"))
    x = whole.start() + torch.randn(
        4, whole.d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    alone = [whole.alone(row) for row in range(4)]
    for t in (0, 3):
        expected = torch.cat([g.clone() for _, g in whole.gradient(x, t)], dim=1)
        losses = whole.losses.clone()
        for row in (2, 0, 3, 1):
            g = torch.cat([g for _, g in alone[row].gradient(x[row : row + 1], t)], dim=1)
            assert g.numpy() == pytest.approx(expected[row : row + 1].numpy(), rel=1e-12, abs=1e-15)
            assert float(alone[row].losses[0]) == pytest.approx(float(losses[row]), rel=1e-12)


def trained(folder=None, seed=0, **changes):
    """The outcome of one run in this process, without its figures."""
    (planned,) = expand({**experiment(**changes), "seeds": [seed]}).runs
    kept = None if folder is None else RunFolder(folder)
    if kept:
        kept.path.mkdir()
    return execute(planned.config, Here(LocalWorld(), torch.device("cpu")), Journal(kept), None)


@pytest.mark.parametrize("name", METHODS)
def test_two_runs_from_one_seed_are_the_same(tmp_path, name):
    changes = {
        "algorithm": {"name": name}, "topology": {"name": "complete", "workers": 5}, "train": {"rounds": 30},
        "problem": {"name": "quadratic", "noise": 0.1},
        "network": {"compute": {"name": "constant", "compute_s": 0.1}},
    }  # fmt: skip
    first, again, other = (
        trained(tmp_path / out, seed, **changes) for out, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    rows = [but_wall_time(read_csv(tmp_path / out / "metrics.csv")) for out in ("first", "again", "other")]
    assert rows[0] == rows[1] != rows[2]
    assert first.final | {"wall_s": 0} == again.final | {"wall_s": 0} != other.final | {"wall_s": 0}
    files = [(tmp_path / out / "staleness.csv").read_bytes() for out in ("first", "again")]
    assert files[0] == files[1]
    assert [row["round"] for row in rows[0]] == [str(t) for t in range(31)]
    assert [float(row["simulated_s"]) for row in rows[0]] == pytest.approx([0.1 * t for t in range(31)])
    lags = [
        (int(row["staleness"]), int(row["messages"])) for row in read_csv(tmp_path / "first/staleness.csv")
    ]
    assert first.final["staleness_max"] == max(lag for lag, _ in lags)
    assert first.final["answered"] == sum(count for _, count in lags)


@pytest.mark.slow
def test_the_command_leaves_a_histogram_a_trace_and_their_figures(tmp_path):
    table = {"sweep": {"algorithm.name": ["dsgd", *METHODS]}}
    said = decentral("run", write(tmp_path / "small.toml", **table), "--out", tmp_path / "out")
    assert said.code == 0, said.err
    for name in METHODS:
        (home,) = (tmp_path / "out/runs").glob(f"{name}_*")
        last, status = read_csv(home / "metrics.csv")[-1], json.loads((home / "status.json").read_text())
        assert last["round"] == "6"
        assert float(last["bytes_sent_mean"]) > 0
        assert status["final"].keys() <= COLUMNS.keys()
        assert (
            sum(int(row["messages"]) for row in read_csv(home / "staleness.csv"))
            == status["final"]["answered"]
        )
        events = json.loads((home / "trace.json").read_text())["traceEvents"]
        assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {f"worker {i}" for i in range(4)}
    for figure in ("staleness.png", "timeline.png"):
        assert (tmp_path / "out/figures" / figure).exists()


def test_bars_hold_every_message_once():
    rng = np.random.default_rng(0)
    for lags in (np.arange(3), np.array([0]), np.arange(-1000, 1001, 7), np.arange(-3, 38)):
        counts = rng.integers(1, 9, len(lags))
        edges, share = bars(lags, counts)
        assert len(share) <= 40
        expected, _ = np.histogram(np.repeat(lags, counts), bins=edges)
        assert share == pytest.approx(expected / counts.sum())
        assert share.sum() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_quadratic_is_solved(name):
    """With small steps, up to what a constant step leaves of the workers' differences."""
    bias = []
    for lr in (0.08, 0.02):
        found = trained(
            problem={"name": "quadratic", "dimension": 5, "condition": 2.0},
            topology={"name": "complete", "workers": 4},
            algorithm={"name": name},
            train={"lr": lr, "rounds": int(16 / lr), "record_every": 1000, "weight_decay": 0.05},
        ).final
        assert found["mean_bias_sq"] + found["consensus_sq"] == pytest.approx(found["bias_sq"])
        bias.append(found["mean_bias_sq"])
    assert bias[1] < min(1e-3, 0.2 * bias[0])


def test_a_run_that_diverges_says_so(tmp_path):
    outcome = trained(tmp_path / "out", algorithm={"name": "ad-psgd"}, train={"lr": 9.0, "rounds": 300})
    assert outcome.status == "diverged"
    assert "its loss is" in outcome.message
    rows = read_csv(tmp_path / "out" / "metrics.csv")
    assert 1 < len(rows) < 300
    assert all(np.isfinite(float(row["bias_sq"])) for row in rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topology": {"name": "exponential", "workers": 5}}, "symmetric"),
        ({"topology": {"name": "one-peer-exponential", "workers": 4}}, "every round"),
        ({"compression": {"name": "qsgd"}}, "compression"),
        ({"faults": {"loss": 0.1}}, "[faults]"),
        ({"network": {"overlap": True}}, "network.overlap"),
        ({"train": {"compile": True}}, "compile"),
        ({"train": {"oracle": "batched"}}, "oracle"),
        ({"algorithm": {"name": "async-local-sgd", "every": 0}}, "every = 0"),
        ({"algorithm": {"name": "async-push-sum", "least_weight": 0.0}}, "least_weight = 0.0"),
        ({"algorithm": {"name": "async-push-sum", "most_under_way": 0}}, "most_under_way = 0"),
        ({"algorithm": {"name": "ad-psgd", "momentum": 0.9}}, "momentum"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_any_work(tmp_path, changes, words):
    file = write(tmp_path / "x.toml", **{"algorithm": {"name": "ad-psgd"}, **changes})
    said = decentral("run", file, "--out", tmp_path / "out")
    assert said.code == 2
    assert words in said.err
    assert not (tmp_path / "out").exists()
