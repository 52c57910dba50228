"""Simulated seconds of runs: against formulas by hand, and packets against sums over workers written out here."""

import json
import shutil

import numpy as np
import pytest
from command import decentral, metrics, write

import topologies
from decentral.comm import LocalComm
from decentral.comm.compression import AdaComp, Layout
from decentral.comm.links import Links
from decentral.network import COMPUTE_TIMES, Clocks, Gossip
from decentral.runs.rounds.clock import SimulatedTime
from decentral.runs.sections.network import Network

pytestmark = pytest.mark.usefixtures("home")
ALPHA, RATE, COMPUTE = 1e-3, 1e4, 0.25
NETWORK = {
    "latency_s": "1 ms",
    "bandwidth_bytes_s": "80 kb/s",
    "compute": {"name": "constant", "compute_s": COMPUTE},
}
N, D, ROUNDS = 8, 3, 6
VECTOR_S = ALPHA + 8 * D / RATE  # one message of D float64 numbers
RING_S = 2 * (N - 1) * (ALPHA + 8 * D / N / RATE)


def seconds(tmp_path, algorithm, topology="ring", **network):
    changes = {
        "topology": {"name": topology, "workers": N},
        "algorithm": algorithm,
        "network": {**NETWORK, **network},
        "train": {"lr": 0.01, "rounds": ROUNDS},
    }
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    done = decentral("run", write(tmp_path / "x.toml", **changes), "--out", "out")
    assert done.code == 0, done.err
    ((_, rows),) = metrics(tmp_path / "out").items()
    return np.array([float(row["simulated_s"]) for row in rows])


RATES = {
    "pmsgd": ({"name": "pmsgd"}, "ring", COMPUTE + RING_S),
    "dsgd on a ring, one port": ({"name": "dsgd"}, "ring", COMPUTE + 2 * VECTOR_S),
    "dsgd, one peer": ({"name": "dsgd"}, "one-peer-exponential", COMPUTE + VECTOR_S),
    "two vectors": ({"name": "gradient-tracking"}, "ring", COMPUTE + 4 * VECTOR_S),
}


@pytest.mark.parametrize("name", RATES)
def test_a_round_takes_what_the_formula_says(tmp_path, name):
    algorithm, topology, round_s = RATES[name]
    found = seconds(tmp_path, algorithm, topology)
    np.testing.assert_allclose(found, round_s * np.arange(ROUNDS + 1), rtol=1e-12)


def test_a_tree_takes_what_a_tree_takes(tmp_path):
    found = seconds(tmp_path, {"name": "pmsgd"}, all_reduce="tree")
    np.testing.assert_allclose(found[-1], ROUNDS * (COMPUTE + 2 * 3 * VECTOR_S), rtol=1e-12)


def test_averages_now_and_then_are_paid_when_they_are(tmp_path):
    found = np.diff(seconds(tmp_path, {"name": "gossip-pga", "every": 3}))
    gossip, average = COMPUTE + 2 * VECTOR_S, COMPUTE + RING_S
    np.testing.assert_allclose(found, [gossip, gossip, average] * 2, rtol=1e-9)


def test_overlap_hides_what_is_ready_before_the_gradient(tmp_path):
    awc = {"name": "dsgd", "variant": "awc"}
    slow = {"name": "constant", "compute_s": 1e-4}
    for compute, round_s in ((NETWORK["compute"], COMPUTE), (slow, 2 * VECTOR_S)):
        found = seconds(tmp_path, awc, overlap=True, compute=compute)
        np.testing.assert_allclose(found[-1], ROUNDS * round_s, rtol=1e-12)
    # of momentum tracking's two vectors one needs the gradient
    found = seconds(tmp_path, {"name": "momentum-tracking"}, overlap=True)
    np.testing.assert_allclose(found[-1], ROUNDS * (COMPUTE + 2 * VECTOR_S), rtol=1e-12)


def test_overlap_of_nothing_is_refused(tmp_path):
    file = write(tmp_path / "x.toml", network={"overlap": True})
    refusal = decentral("run", file)
    assert refusal.code == 2
    assert "network.overlap = true, but nothing that DSGD sends is ready" in refusal.err


def test_computing_takes_the_flops_of_a_gradient_at_the_given_rate(tmp_path):
    spent = []
    for rate in (1e6, 2e6):
        file = write(tmp_path / "x.toml", network={"compute": {"flops_per_s": rate}})
        assert decentral("run", file, "--out", f"out{rate}").code == 0
        ((_, rows),) = metrics(tmp_path / f"out{rate}").items()
        spent.append(float(rows[-1]["simulated_s"]))
    assert spent[1] > 0
    assert spent[0] == pytest.approx(2 * spent[1])


def test_flops_of_an_mlp_are_those_of_its_products(tmp_path):
    """Forward 2 b m k; backward the same for the weights, and for the inputs of all layers but the first."""
    problem = {"name": "mlp", "hidden": [16]}
    file = write(tmp_path / "x.toml", problem=problem, train={"batch_size": 5, "rounds": 2})
    assert decentral("run", file, "--out", "out").code == 0
    ((_, rows),) = metrics(tmp_path / "out").items()
    first, second = 2 * 5 * 64 * 16, 2 * 5 * 16 * 10
    assert float(rows[-1]["simulated_s"]) == pytest.approx(2 * (2 * first + 3 * second) / 1e10, rel=1e-12)


class Packets:
    """A communicator's ledger and links, driven by hand: worker i sends i + t packets' bytes."""

    def __init__(self, w):
        self.comm = LocalComm(w)
        self.comm.links = Links(AdaComp(), Layout.whole(D), 0, self.comm.rows)

    def send(self, t, gathers):
        plan = self.comm.at(t).plan
        copies = np.full(N, N - 1) if gathers else plan.out_degree
        size = 100 * (np.arange(N) + t)
        self.comm.ledger.count_packets(copies, size, True, gathers)
        return size


@pytest.mark.parametrize("gathers", [False, True])
def test_packets_of_different_lengths_take_different_times(gathers):
    w = topologies.mixing_matrix(topologies.ring(N))
    packets = Packets(w)
    network = Network.from_table(NETWORK, N)
    compute = COMPUTE_TIMES["lognormal"](0.1, 1.0)
    simulated = SimulatedTime(network, compute, packets.comm, 3, 0, range(0))
    clock = np.zeros(N)
    for t in range(5):
        took = ALPHA + packets.send(t, gathers) / RATE
        simulated.note()
        ready = clock + compute.draw(t, range(N), 3)
        if gathers:
            clock = np.full(N, ready.max() + (N - 1) * took.max())
            continue
        ended = np.zeros(N)
        for i in range(N):
            mine = sorted([(i - 1) % N, (i + 1) % N])
            ended[i] = max(ended[i], ready[i] + 2 * took[i])
            for place, j in enumerate(mine, start=1):  # the second waits for the first
                ended[j] = max(ended[j], ready[i] + place * took[i])
        clock = ended
    assert simulated.catch_up() == pytest.approx(clock.max(), rel=1e-12)


def test_the_timeline_is_that_of_the_middle_rounds(tmp_path):
    seconds(tmp_path, {"name": "dsgd"})
    (path,) = (tmp_path / "out").glob("runs/*/trace.json")
    trace = json.loads(path.read_text())
    assert trace["otherData"]["clock"] == "simulated"
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    for worker in range(N):
        mine = [e for e in events if e["tid"] == worker]
        assert sum(e["dur"] for e in mine if e["cat"] == "compute") == pytest.approx(1e6 * ROUNDS * COMPUTE)
        assert sum(e["dur"] for e in mine if e["cat"] == "send") == pytest.approx(1e6 * ROUNDS * 2 * VECTOR_S)
        assert sum(e["dur"] for e in mine) == pytest.approx(1e6 * ROUNDS * (COMPUTE + 2 * VECTOR_S))
    names = {e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    assert names == {f"worker {i}" for i in range(N)}


REFUSED = {
    "network.latency_s = -1.0 must be finite and not negative": {"latency_s": -1.0},
    "network.latency_s = '5 parsec' has the unknown unit 'parsec'": {"latency_s": "5 parsec"},
    "network.bandwidth_bytes_s = -375000000.0 must be positive": {"bandwidth_bytes_s": "-3 Gb/s"},
    "network.ports = 'two' is not known": {"ports": "two"},
    "unknown key network.latencys; did you mean 'latency_s'?": {"latencys": 1},
    "network.all_reduce = 'rang' is not known; did you mean 'ring'?": {"all_reduce": "rang"},
    "network.all_reduce = 'hierarchical' needs hosts": {"all_reduce": "hierarchical"},
    "network.hosts.workers = 0 must be at least 1": {
        "hosts": {"workers": 0, "latency_s": 0.0, "bandwidth_bytes_s": 1.0}
    },
    "missing key network.hosts.latency_s": {"hosts": {"workers": 2}},
    "network.compute.name = 'quick' is not known": {"compute": {"name": "quick"}},
    "network.compute.sigma = -1.0 must be": {
        "compute": {"name": "lognormal", "median_s": 1.0, "sigma": -1.0}
    },
    "network.compute.worker = 4 is none of 4 workers": {
        "compute": {"name": "one-slow-worker", "compute_s": 1.0, "factor": 2.0, "worker": 4}
    },
    "flops_per_s = 0.0 must be positive": {"compute": {"flops_per_s": 0.0}},
    "network.cluster: no.toml does not exist": {"cluster": "no.toml"},
    "network.ports = 'one' beside network.cluster": {"cluster": "no.toml", "ports": "one"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_bad_network_is_refused_before_any_work(tmp_path, message):
    refusal = decentral("run", write(tmp_path / "x.toml", network=REFUSED[message]))
    assert refusal.code == 2
    assert message in refusal.err
    assert refusal.err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_cluster_whose_graph_has_not_the_links_is_refused(tmp_path):
    edges = "".join(
        f'<edge source="{i}" target="{i + 1}"><data key="a">1e-3</data><data key="b">1e9</data></edge>'
        for i in range(3)
    )
    (tmp_path / "path.graphml").write_text(
        '<?xml version="1.0"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
        '<key id="a" for="edge" attr.name="latency_s" attr.type="double"/>'
        '<key id="b" for="edge" attr.name="bandwidth_bytes_s" attr.type="double"/><graph edgedefault="undirected">'
        + "".join(f'<node id="{i}"/>' for i in range(4)) + edges + "</graph></graphml>"
    )  # fmt: skip
    for workers, message in ((4, "no link from worker 0 to worker 3"), (5, "4 nodes for 5 workers")):
        file = write(tmp_path / "x.toml", topology={"workers": workers}, network={"cluster": "path.graphml"})
        refusal = decentral("run", file)
        assert refusal.code == 2
        assert message in refusal.err
    along = {"topology": {"name": "path", "workers": 4}, "network": {"cluster": "path.graphml"}}
    for algorithm in ({"name": "pmsgd"}, {"name": "gossip-pga", "every": 3}):
        refusal = decentral("run", write(tmp_path / "x.toml", algorithm=algorithm, **along))
        assert refusal.code == 2
        assert "an all-reduce needs a link between any two workers" in refusal.err
    path = write(
        tmp_path / "x.toml", topology={"name": "path", "workers": 4}, network={"cluster": "path.graphml"}
    )
    assert decentral("run", path, "--out", "path").code == 0


def test_a_calibrated_cluster_says_the_seconds_of_a_sample(tmp_path):
    (tmp_path / "cluster.toml").write_text(
        'workers = 4\n[links]\nlatency_s = "1 ms"\nbandwidth_bytes_s = 1e4\n'
        "[compute]\nsample_s = 0.01\nbatch_size = 8\nround_bytes = [1.0]\ngossip_s = [0.0]\nall_reduce_s = [0.0]\n"
    )
    network = {"cluster": "cluster.toml", "compute": {"name": "per-sample"}}
    problem = {"name": "mlp", "hidden": [4]}
    train = {"batch_size": 5, "rounds": 2, "dtype": "float32"}
    file = write(tmp_path / "x.toml", network=network, problem=problem, train=train)
    assert decentral("run", file, "--out", "out").code == 0
    ((_, rows),) = metrics(tmp_path / "out").items()
    d = 64 * 4 + 4 + 4 * 10 + 10
    expected = 2 * (5 * 0.01 + 2 * (ALPHA + 4 * d / RATE))
    assert float(rows[-1]["simulated_s"]) == pytest.approx(expected, rel=1e-12)
    refusal = decentral("run", file, "--set", "train.batch_size=full", "--out", "full")
    assert refusal.code == 2
    assert 'needs batches of one size, and train.batch_size = "full"' in refusal.err
    # another problem's seconds are not taken unasked
    for compute, name in (({"name": "flops", "flops_per_s": 1e6}, "said"), (None, "unsaid")):
        table = {"cluster": "cluster.toml", **({"compute": compute} if compute else {})}
        file = write(tmp_path / "x.toml", network=table, problem=problem, train=train)
        assert decentral("run", file, "--out", name).code == 0
        ((_, rows),) = metrics(tmp_path / name).items()
        gradient_s = float(rows[-1]["simulated_s"]) / 2 - 2 * (ALPHA + 4 * d / RATE)
        matrix_products = 2 * 5 * (2 * (64 * 4 + 4 * 10) + 4 * 10)  # backward has none for the inputs
        assert gradient_s == pytest.approx(matrix_products / (1e6 if compute else 1e10), rel=1e-6)
    (tmp_path / "cluster.toml").write_text(
        'workers = 4\n[links]\nlatency_s = "1 ms"\nbandwidth_bytes_s = 1e4\n'
    )
    file = write(tmp_path / "x.toml", network=network, problem=problem, train=train)
    refusal = decentral("run", file, "--out", "none")
    assert refusal.code == 2
    assert 'network.compute.name = "per-sample" needs sample_s' in refusal.err


def test_nobody_waits_for_messages_that_do_not_come_or_for_workers_who_are_away(tmp_path):
    """A ring of four: rounds of DSGD take C + 2 m; with worker 0 away its two neighbours send one message."""
    changes = {
        "network": {**NETWORK, "compute": {"name": "one-slow-worker", "compute_s": COMPUTE, "factor": 10.0}},
        "train": {"rounds": 9},
        "faults": {"absent_workers": [0], "leave_round": 3, "return_round": 6},
    }
    assert decentral("run", write(tmp_path / "x.toml", **changes), "--out", "away").code == 0
    ((_, rows),) = metrics(tmp_path / "away").items()
    rounds_s = np.diff([float(row["simulated_s"]) for row in rows])
    np.testing.assert_allclose(rounds_s[[0, 1, 2, 6, 7, 8]], 10 * COMPUTE + 2 * VECTOR_S)
    # the last to begin is worker 3, whose message to 0 goes first; now it has one message, and 2 still two
    np.testing.assert_allclose(rounds_s[3:6], [COMPUTE + VECTOR_S, *[COMPUTE + 2 * VECTOR_S] * 2])
    slow = {**changes["network"], "compute": NETWORK["compute"]}
    faults = {"slow_workers": [2], "slow_factor": 10.0}
    file = write(tmp_path / "x.toml", network=slow, faults=faults, train={"rounds": 3})
    assert decentral("run", file, "--out", "slow").code == 0
    ((_, rows),) = metrics(tmp_path / "slow").items()
    np.testing.assert_allclose(float(rows[-1]["simulated_s"]), 3 * (10 * COMPUTE + 2 * VECTOR_S))


def test_a_lost_message_keeps_its_sender_busy_and_nobody_waiting():
    """Two workers, one of them slow to send: who does not hear of it goes on."""
    cluster = Network.from_table(NETWORK, 2).cluster
    edges = np.array([0, 1]), np.array([1, 0])
    clocks = Clocks(cluster, COMPUTE_TIMES["one-slow-worker"](1.0, 5.0))
    lost = Gossip(
        topologies.constant(np.full((2, 2), 0.5)), cluster, lambda t: (*edges, np.array([False, True]))
    )
    ended = clocks.advance(0, [lost.phase(0, 1e4)])
    np.testing.assert_allclose(ended, [5 + 1.001, 1 + 1.001])
