"""decentral advise: its numbers against the methods' own messages, steady states and the sheet; its refusals."""

import json
import time

import numpy as np
import pytest
import torch
from command import decentral

import topologies
from decentral.algorithms import EXTRA, DecentLaM, SlowMo
from decentral.algorithms.rest import Rest, rest_of
from decentral.comm import LocalComm
from decentral.commands.advise import GRAPHS, _rho, advise, built, resized
from decentral.commands.advise_figure import WORKERS, sweep
from decentral.commands.advise_methods import bias_factor, candidates
from decentral.commands.advise_table import milliseconds, sentences
from decentral.errors import UserError
from decentral.network.cluster import Cluster, Link
from decentral.network.cluster_file import read_cluster
from decentral.rounds.trials.fixed_points import fixed_point

SHEET = Cluster.uniform(64, 50e-6, 1.25e9)
EXAMPLE = "examples/cluster_10gbit.toml"
COST_TABLE = {
    "ring all-reduce": "163.8", "halving-doubling all-reduce": "158.1", "recursive-doubling all-reduce": "480.3",
    "tree all-reduce": "960.6", "parameter-server all-reduce": "10086", "ring": "160.1",
    "one-peer-exponential": "80.05", "exponential": "480.3",
}  # fmt: skip
HOSTS = """
workers = 16
[links]
latency_s = "50 us"
bandwidth_bytes_s = "10 Gb/s"
[hosts]
workers = 4
latency_s = "2 us"
bandwidth_bytes_s = "200 Gb/s"
"""


class Watched(LocalComm):
    """Keeps what a method sends along the graph, one tensor each time that it mixes or exchanges."""

    def bill_gossip(self, x):
        if not self.rider:
            self.sent.append(x.clone())
        super().bill_gossip(x)


def run(method, rounds, gradients):
    """A method on a path, its bytes, and what it sent in the last round."""
    comm = Watched(topologies.mixing_matrix(topologies.path(6)))
    comm.sent = []
    torch.manual_seed(0)
    x = torch.randn(6, 1000, dtype=torch.float64)
    state = method.init(x, comm)
    for t in range(rounds):
        comm.sent.clear()
        g = torch.randn(6, 1000, dtype=torch.float64)
        x, state = method.step(x, state, gradients * g if t == rounds - 1 else g, comm.at(t), 0.01)
    return comm.ledger.bytes_sent.mean(), list(comm.sent)


CANDIDATES = candidates()


@pytest.mark.slow
@pytest.mark.parametrize("method", CANDIDATES, ids=lambda m: m.label)
def test_what_a_method_is_said_to_send_is_what_it_sends_and_when(method):
    sends = method.sends
    rounds = round(1 / sends.averages) if sends.averages else 3
    vector, degree = 8000, 10 / 6
    sent, last = run(method.method, rounds, 1.0)
    said = (sends.early + sends.late) * degree * vector + sends.averages * 2 * 5 / 6 * vector
    assert sent / rounds == pytest.approx(said, rel=2e-3)  # the weight that push-sum sends along is below
    _, other = run(method.method, rounds, -1.0)
    early = sum(torch.equal(a, b) for a, b in zip(last, other, strict=True))
    assert early == sends.early


TERMS = [
    one
    for one in CANDIDATES
    if one.name != "push-sum" and (rest := rest_of(one.method)) and rest.bias in ("atc", "awc")
]


def test_the_biased_methods_are_these():
    assert {one.label for one in TERMS} == {
        "dsgd", "dsgd awc", "dmsgd", "dmsgd awc", "decentlam", "quasi-global",
    }  # fmt: skip


@pytest.mark.parametrize("method", TERMS, ids=lambda m: m.label)
def test_the_bias_is_that_of_the_steady_state_where_gradients_lie_worst(method):
    w = topologies.mixing_matrix(topologies.ring(16))
    values, vectors = np.linalg.eigh(w.toarray())
    c, lr = (
        vectors[:, -2:-1],
        1e-6,
    )  # of the second eigenvalue; f_i = (x - c_i)^2 / 2, and the optimum is at 0
    x = fixed_point(method.method, w, np.ones((16, 1, 1)), c, lr)
    measured = ((x - x.mean()) ** 2).mean() / (lr**2 * (c**2).mean())
    assert measured == pytest.approx(
        method.bias(1 - values[-2], 1), rel=2e-2 if "dm" in method.name else 1e-3
    )


@pytest.mark.parametrize("n", [8, 12])
@pytest.mark.parametrize("variant", ["atc", "awc"])
def test_the_bias_on_a_schedule_bounds_the_disagreement_at_the_end_of_a_period(n, variant):
    schedule = topologies.one_peer_exponential(n)
    drift, mean = (
        np.zeros((n, n)),
        np.full((n, n), 1 / n),
    )  # the map from gradients to what they leave, at lr 1
    for t in range(60 * schedule.period):
        w = schedule.matrix(t).toarray() - mean
        drift = w @ (drift - np.eye(n)) if variant == "atc" else w @ drift - (np.eye(n) - mean)
    worst = np.linalg.norm(drift, 2) ** 2
    bound = bias_factor(Rest(variant, changing=True), 1 - topologies.period_rho(schedule), schedule.period)
    assert worst <= bound * (1 + 1e-9) <= 4 * worst


def test_methods_without_bias_and_without_a_known_term():
    assert bias_factor(rest_of(EXTRA()), 0.1, 1) == 0
    assert bias_factor(rest_of(SlowMo()), 0.1, 1) is None
    assert bias_factor(rest_of(DecentLaM()), 1.0, 3) is None


@pytest.mark.parametrize("n", [6, 12, 15, 16])
def test_the_gap_is_that_of_a_dense_product(n):
    for name in GRAPHS:
        schedule = built(name, n, 1)
        if schedule is not None:
            dense = np.linalg.norm(topologies.product(schedule) - 1 / n, 2)
            assert _rho(schedule) == pytest.approx(dense, abs=1e-12), name


def test_the_sheet_s_cost_table_is_printed():
    said = decentral("advise", EXAMPLE, "--model-bytes", "100e6", "--compute-s", "0.1")
    assert said.code == 0, said.err
    assert max(map(len, said.out.splitlines())) <= 80
    first = said.out.partition("a round with")[0]
    printed = {
        name: line
        for line in first.splitlines()
        for name in COST_TABLE
        if line.strip().startswith(f"{name}  ")
    }
    assert {name: line.strip().removeprefix(name).split()[0] for name, line in printed.items()} == COST_TABLE
    assert "Gossip pays in time a round" in said.out
    assert "not fewer seconds to an accuracy" in " ".join(said.out.split())


def test_json_has_all_rows_fastest_first_and_their_arithmetic():
    said = decentral("advise", EXAMPLE, "--model-bytes", "100e6", "--compute-s", "0.1", "--json")
    told = json.loads(said.out)
    seconds = [row["seconds"] for row in told["rows"]]
    assert seconds == sorted(seconds)
    rows = {(row["graph"], row["method"]): row for row in told["rows"]}
    ring_s, reduce_s = 0.1601, 0.1581
    expected = {
        "dsgd": 0.1 + ring_s, "dsgd awc": max(0.1, ring_s), "gradient-tracking": 0.1 + 2 * ring_s,
        "diging": max(0.1, ring_s) + ring_s, "slowmo": 0.1 + ring_s + reduce_s / 12,
    }  # fmt: skip
    for method, value in expected.items():
        assert rows["ring", method]["seconds"] == pytest.approx(value, rel=1e-3)
    assert rows["ring", "dsgd"]["sent_bytes_mean"] == 2e8
    assert rows["ring", "gradient-tracking"]["sent_bytes_mean"] == 4e8
    assert rows["ring all-reduce", "pmsgd"]["sent_bytes_mean"] == pytest.approx(2 * 63 / 64 * 1e8)
    assert rows["one-peer-exponential", "dsgd awc"]["seconds"] == pytest.approx(0.1)
    assert (
        rows["one-peer-exponential", "dsgd"]["period"],
        rows["one-peer-exponential", "dsgd"]["exact"],
    ) == (6, True)
    assert rows["ring", "dsgd"]["gap"] == pytest.approx(2 / 3 * (1 - np.cos(2 * np.pi / 64)))


def test_refused_methods_are_left_out():
    advice = advise(SHEET, 1e8, 0.1)
    have = {(row.graph, row.method) for row in advice.rows}
    for graph, method in (("ring", "d2"), ("one-peer-exponential", "decentlam"), ("ring", "relay-sgd")):
        assert method in advice.left_out[graph]
        assert (graph, method) not in have
    assert {("tree", "relay-sgd"), ("tree", "d2"), ("exponential", "push-sum"), ("ring", "decentlam")} <= have


def test_it_says_where_gossip_does_not_pay(tmp_path):
    (tmp_path / "hosts.toml").write_text(HOSTS)
    said = decentral("advise", tmp_path / "hosts.toml", "--model-bytes", "1e8", "--compute-s", "0.1")
    assert "Gossip does not pay in time a round on this cluster" in said.out
    advice = advise(read_cluster(tmp_path / "hosts.toml"), 1e8, 0.1)
    assert advice.all_reduce.name == "hierarchical all-reduce"
    by_hand = 2 * 3 * (2e-6 + 25e6 / 25e9) + 2 * 3 * (50e-6 + 6.25e6 / 1.25e9)
    assert advice.all_reduce.seconds == pytest.approx(by_hand)
    assert {"ring-of-cliques", "hierarchical"} <= {way.name for way in advice.ways}
    (ring,) = (line for line in sentences(advise(SHEET, 1e8, 0.1)) if line.startswith("It does not pay on"))
    assert "ring (260.1)" in ring


@pytest.mark.slow
def test_4096_workers_in_under_ten_seconds():
    advise(resized(SHEET, 16), 1e8, 0.1)  # imports
    began = time.process_time()
    advice = advise(resized(SHEET, 4096), 1e8, 0.1)
    assert time.process_time() - began < 8
    gaps = {way.name: way.gap for way in advice.ways}
    assert gaps["ring"] == pytest.approx(2 / 3 * (1 - np.cos(2 * np.pi / 4096)), rel=1e-6)
    assert gaps["torus"] == pytest.approx(2 / 5 * (1 - np.cos(2 * np.pi / 64)), rel=1e-6)
    assert gaps["hypercube"] == pytest.approx(2 / 13, rel=1e-6)
    assert gaps["base-k"] == gaps["one-peer-exponential"] == 1


@pytest.mark.parametrize("n", [2, 3, 5, 7, 12, 21])
def test_any_number_of_workers(n):
    advice = advise(Cluster.uniform(n, 50e-6, 1.25e9), 1e8, 0.0)
    assert all(np.isfinite(row.seconds) for row in advice.rows)
    json.dumps([row.bias for row in advice.rows], allow_nan=False)
    assert sentences(advice)


@pytest.mark.slow
def test_the_figure_s_sweep_and_the_figure(tmp_path):
    gossip, reduces = sweep(SHEET, 1e8)
    assert gossip["ring"][0] == list(WORKERS)
    assert reduces["ring"][1][WORKERS.index(64)] == pytest.approx(163.8e-3, abs=1e-4)
    assert gossip["exponential"][1][WORKERS.index(16)] == pytest.approx(320.2e-3, abs=1e-4)
    hosts = Cluster.uniform(12, 1e-6, 1e9, workers_a_host=3)
    assert resized(hosts, 6).hosts == (0, 0, 0, 1, 1, 1)
    said = decentral(
        "advise", EXAMPLE, "--model-bytes", "1e8", "--compute-s", "0", "--out", tmp_path / "a" / "x.svg"
    )
    assert said.code == 0, said.err
    assert "one-peer-exponential" not in said.err
    assert (tmp_path / "a" / "x.svg").stat().st_size > 10_000


WRONG = {
    "negative": ("--model-bytes", "-1", "--compute-s", "0.1", "model_bytes = -1 must be"),
    "no number": ("--model-bytes", "nan", "--compute-s", "0.1", "model_bytes = nan must be"),
    "text": ("--model-bytes", "big", "--compute-s", "0.1", "not a valid float"),
    "missing": ("--model-bytes", "1e6", "Missing option '--compute-s'"),
    "past": ("--model-bytes", "1e6", "--compute-s", "-1", "compute_s = -1 must be"),
    "suffix": ("--model-bytes", "1e6", "--compute-s", "1", "--out", "x.jpg", "must end in .png"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_one_line(case):
    *options, message = WRONG[case]
    refused(decentral("advise", EXAMPLE, *options), message)


FILES = {
    'workers = 4\nlinkz = 1\n[links]\nlatency_s = 0\nbandwidth_bytes_s = 1\n': "linkz",
    'workers = 4\n[links]\nlatency_s = "5 weeks"\nbandwidth_bytes_s = 1\n': "unknown unit 'weeks'",
    'workers = 4\n[links]\nlatency_s = 0\nbandwidth_bytes_s = -1\n': "must be positive",
    'workers = 1\n[links]\nlatency_s = 0\nbandwidth_bytes_s = 1\n': "at least two workers",
}  # fmt: skip


@pytest.mark.parametrize("text", FILES)
def test_a_wrong_cluster_file_is_one_line(text, tmp_path):
    (tmp_path / "c.toml").write_text(text)
    refused(
        decentral("advise", tmp_path / "c.toml", "--model-bytes", "1e6", "--compute-s", "0.1"), FILES[text]
    )


def test_a_missing_file_and_a_cluster_of_single_edges_are_refused(tmp_path):
    said = decentral("advise", tmp_path / "none.toml", "--model-bytes", "1e6", "--compute-s", "0.1")
    refused(said, "does not exist")
    with pytest.raises(UserError, match=r"add \[links\]"):
        advise(Cluster(4, (0, 1, 2, 3), "one", None), 1e6, 0.1)


def refused(said, message):
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not said.out


def test_the_slowest_link_sets_the_pace_of_a_flat_all_reduce():
    mixed = Cluster(8, (0, 0, 0, 0, 1, 1, 1, 1), "one", Link(1e-3, 1e8), Link(1e-6, 1e10))
    ways = {way.name: way.seconds for way in advise(mixed, 1e6, 0.0).ways}
    assert ways["ring all-reduce"] == pytest.approx(14 * (1e-3 + 1e6 / 8 / 1e8))
    alone = Cluster(8, (0,) * 8, "one", Link(1e-3, 1e8), Link(1e-6, 1e10))
    ways = {way.name: way.seconds for way in advise(alone, 1e6, 0.0).ways}
    assert ways["ring all-reduce"] == pytest.approx(14 * (1e-6 + 1e6 / 8 / 1e10))


def test_milliseconds_have_four_digits_and_all_before_the_point():
    assert [milliseconds(s) for s in (0.08005, 0.1581, 10.0863, 3e-6, 0.0)] == [
        "80.05",
        "158.1",
        "10086",
        "0.003000",
        "0",
    ]
