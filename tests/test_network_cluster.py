"""Clusters from files, units, and compute times: what they mean, and what is refused by name."""

from __future__ import annotations

import subprocess
import sys

import networkx as nx
import numpy as np
import pytest

import topologies
from decentral.errors import UserError
from decentral.network import COMPUTE_TIMES, Cluster
from decentral.network.cluster_file import read_cluster
from decentral.network.units import BYTES_S, SECONDS, quantity
from decentral.tables import named

TOML = """
workers = 6
ports = "shared"
[links]
latency_s = "50 us"
bandwidth_bytes_s = "10 Gb/s"
[hosts]
workers = 4
latency_s = 1e-6
bandwidth_bytes_s = "12.5GB/s"
"""


@pytest.fixture
def cluster_file(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text(TOML)
    return path


def linked(graph, path, **attributes):
    """The graph file with the same attributes on every edge."""
    for _, _, data in graph.edges(data=True):
        data.update(attributes or {"latency_s": 1e-3, "bandwidth_bytes_s": 1e6})
    nx.write_graphml(graph, path)
    return path


def test_a_cluster_file_has_fast_links_inside_hosts_and_slow_ones_between(cluster_file):
    cluster = read_cluster(cluster_file)
    assert (cluster.n, cluster.ports, cluster.hosts) == (6, "shared", (0, 0, 0, 0, 1, 1))
    i, j = np.array([0, 3, 4, 2]), np.array([1, 4, 5, 2])  # inside, between, inside, itself
    np.testing.assert_allclose(cluster.latency_s(i, j), [1e-6, 50e-6, 1e-6, 0], rtol=1e-12)
    np.testing.assert_allclose(
        cluster.bandwidth_bytes_s(i, j), [1.25e10, 1.25e9, 1.25e10, np.inf], rtol=1e-12
    )
    every = np.arange(6)
    assert cluster.latency_s(every[:, None], every[None, :]).shape == (6, 6)
    assert float(cluster.latency_s(0, 5)) == 50e-6


def test_a_run_may_say_how_many_workers_there_are(tmp_path):
    path = tmp_path / "any.toml"
    path.write_text("[links]\nlatency_s = 0\nbandwidth_bytes_s = inf\n")
    assert read_cluster(path, 12).n == 12
    with pytest.raises(UserError, match="how many workers"):
        read_cluster(path)


def test_a_graph_file_has_a_link_an_edge(tmp_path):
    graph = nx.DiGraph([("w2", "w10", {"latency_s": "2 ms", "bandwidth_bytes_s": "1 MB/s"}),
                        ("w10", "w2", {"latency_s": 0.5, "bandwidth_bytes_s": 8.0})])  # fmt: skip
    nx.write_gml(graph, tmp_path / "two.gml")
    cluster = read_cluster(tmp_path / "two.gml")
    assert (cluster.n, cluster.ports) == (2, "one")  # w2 is worker 0, for 2 is less than 10
    np.testing.assert_allclose(cluster.latency_s([0, 1], [1, 0]), [0.002, 0.5])
    np.testing.assert_allclose(cluster.bandwidth_bytes_s([0, 1], [1, 0]), [1e6, 8])


def test_an_edge_without_direction_is_a_link_both_ways_and_others_are_none(tmp_path):
    cluster = read_cluster(linked(topologies.path(3), tmp_path / "path.graphml"))
    np.testing.assert_allclose(cluster.latency_s([0, 1, 1, 2], [1, 0, 2, 1]), 1e-3)
    with pytest.raises(UserError, match="no link from worker 2 to worker 0"):
        cluster.latency_s([0, 2], [1, 0])


def test_edges_of_a_graph_go_before_the_links_of_the_table(cluster_file):
    linked(nx.path_graph(6), cluster_file.parent / "slow.graphml")
    cluster_file.write_text('graph = "slow.graphml"\n' + TOML)
    cluster = read_cluster(cluster_file)
    np.testing.assert_allclose(cluster.latency_s([2, 2, 1], [3, 0, 5]), [1e-3, 1e-6, 50e-6])


def test_units():
    assert quantity("10 Gb/s", "b", BYTES_S) == 1.25e9
    assert quantity("3MiB/s", "b", BYTES_S) == 3 * 1024**2
    assert quantity("8 kb/s", "b", BYTES_S) == 1000
    assert quantity("1e3 ns", "l", SECONDS) == 1e-6
    assert quantity("50 us", "l", SECONDS) == 50e-6
    assert quantity(7, "l", SECONDS) == 7.0


def edited(old, new):
    assert TOML.count(old) == 1
    return TOML.replace(old, new)


BROKEN = {
    "links.latency_s = -1.0 must be finite and not negative": edited('"50 us"', "-1"),
    "links.latency_s = inf must be finite": edited('"50 us"', "inf"),
    "links.bandwidth_bytes_s = 0.0 must be positive": edited('"10 Gb/s"', "0"),
    "links.bandwidth_bytes_s = -5.0 must be positive": edited('"10 Gb/s"', "-5"),
    "links.bandwidth_bytes_s = nan must be positive": edited('"10 Gb/s"', "nan"),
    "links.bandwidth_bytes_s = '10 Gbps' has the unknown unit 'Gbps'; did you mean": edited(
        "10 Gb/s", "10 Gbps"
    ),
    "links.latency_s = '50 us us' is not a quantity": edited("50 us", "50 us us"),
    "links.latency_s = '1.2.3 s' is not a quantity": edited("50 us", "1.2.3 s"),
    "links.latency_s = '50 MB/s' has the unknown unit 'MB/s'; valid: ms, ns, s, us": edited(
        "50 us", "50 MB/s"
    ),
    "links.latency_s = True should be": edited('"50 us"', "true"),
    "hosts.bandwidth_bytes_s = 0.0 must": edited('"12.5GB/s"', "0"),
    "hosts.workers = 0 must be at least 1": edited("workers = 4", "workers = 0"),
    "missing key hosts.workers": edited("workers = 4\n", ""),
    "missing key links.latency_s": edited('latency_s = "50 us"\n', ""),
    "workers = 0 must be at least 1": edited("workers = 6", "workers = 0"),
    "cluster.workers = 'six' should be": edited("workers = 6", 'workers = "six"'),
    "ports = 'many' is not known; valid: multi, one, shared": edited('"shared"', '"many"'),
    "unknown key cluster.port; did you mean 'ports'": edited("ports", "port"),
    "unknown key links.latency; did you mean 'latency_s'": edited('latency_s = "50 us"', "latency = 1"),
    "it describes no links": "workers = 3\n",
    "links = 3 should be a table": "workers = 3\nlinks = 3\n",
    "is not valid TOML": "workers =",
    "gone.graphml: no such file": 'graph = "gone.graphml"',
    "links.yaml: no graph format has the suffix '.yaml'": 'graph = "links.yaml"',
    "graph ring.graphml has 5 nodes for 6 workers": 'workers = 6\ngraph = "ring.graphml"',
    "edge 0 -> 1 has no attribute latency_s": 'graph = "bare.graphml"',
    "edge 0 -> 1: bandwidth_bytes_s = -1.0 must be positive": 'graph = "negative.graphml"',
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_cluster_file_is_refused_in_one_line_that_names_it(message, cluster_file):
    linked(nx.cycle_graph(5), cluster_file.parent / "ring.graphml")
    linked(nx.path_graph(2), cluster_file.parent / "negative.graphml", latency_s=0.0, bandwidth_bytes_s=-1.0)
    nx.write_graphml(nx.path_graph(2), cluster_file.parent / "bare.graphml")
    cluster_file.write_text(BROKEN[message])
    with pytest.raises(UserError) as refused:
        read_cluster(cluster_file)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(cluster_file))
    assert "\n" not in str(refused.value)


def test_a_cluster_that_is_not_of_the_run_is_refused(cluster_file, tmp_path):
    with pytest.raises(UserError, match=r"workers = 6 but the run has 8"):
        read_cluster(cluster_file, 8)
    with pytest.raises(UserError, match=r"has 4 nodes for 8 workers"):
        read_cluster(linked(nx.cycle_graph(4), tmp_path / "ring.graphml"), 8)
    with pytest.raises(UserError, match="does not exist"):
        read_cluster(tmp_path / "none.toml")
    with pytest.raises(UserError, match="hosts of 1 workers for 2"):
        Cluster(2, (0,), "one", None)


MODELS = {
    "constant": {"compute_s": 2.0},
    "shifted-exponential": {"mean_s": 0.5, "shift_s": 1.0},
    "lognormal": {"median_s": 2.0, "sigma": 0.4},
    "one-slow-worker": {"compute_s": 1.0, "factor": 5.0, "worker": 3},
    "stalls": {"compute_s": 1.0, "stall_s": 9.0, "probability": 0.1},
}


@pytest.fixture
def models(tmp_path):
    """Name -> model, made of a table as an experiment would; the trace of three rounds and eight workers."""
    path = tmp_path / "trace.csv"
    path.write_text("# recorded\n" + "\n".join(",".join(f"{10 * t + w}" for w in range(8)) for t in range(3)))
    tables = MODELS | {"trace": {"path": str(path)}}
    return {name: named({"name": name, **table}, "compute", COMPUTE_TIMES) for name, table in tables.items()}


def test_there_is_a_test_of_every_model(models):
    assert models.keys() == COMPUTE_TIMES.keys()


def test_a_worker_has_the_same_times_in_whatever_range_it_is_drawn(models):
    for name, model in models.items():
        whole = model.draw(7, range(8), 1)
        assert whole.shape == (8,)
        np.testing.assert_array_equal(model.draw(7, range(2, 5), 1), whole[2:5], err_msg=name)
        if name in ("shifted-exponential", "lognormal"):
            assert (model.draw(8, range(8), 1) != whole).all()
            assert (model.draw(7, range(8), 2) != whole).all()


def test_models_have_the_moments_of_their_distributions(models):
    n = 200_000
    drawn = {k: model.draw(0, range(n), 0) for k, model in models.items() if k != "trace"}
    np.testing.assert_array_equal(drawn["constant"], 2.0)
    exponential = drawn["shifted-exponential"]
    assert exponential.min() >= 1.0
    assert exponential.mean() == pytest.approx(1.5, rel=0.01)
    assert exponential.std() == pytest.approx(0.5, rel=0.02)
    assert np.median(drawn["lognormal"]) == pytest.approx(2.0, rel=0.01)
    assert np.log(drawn["lognormal"]).std() == pytest.approx(0.4, rel=0.01)
    assert set(np.unique(drawn["stalls"])) == {1.0, 10.0}
    assert (drawn["stalls"] > 1).mean() == pytest.approx(0.1, rel=0.05)
    assert drawn["one-slow-worker"][3] == 5.0
    assert drawn["one-slow-worker"].sum() == n + 4


def test_a_trace_is_played_over_and_over(models):
    for t in range(7):
        np.testing.assert_array_equal(models["trace"].draw(t, range(8), 0), 10 * (t % 3) + np.arange(8))
    with pytest.raises(UserError, match="8 columns for 9 workers"):
        models["trace"].check(9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no times"),
        ("1,2\n3\n", "different numbers of columns"),
        ("1,2\n3,x\n", "'x'"),
        ("1,2\n3,-4\n", "-4.0 s of worker 1 in round 1 must"),
        ("nan\n", "nan s of worker 0 in round 0 must"),
    ],
)
def test_a_broken_trace_is_refused(text, message, tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        COMPUTE_TIMES["trace"](str(path))
    assert str(path) in str(refused.value)
    with pytest.raises(UserError, match="No such file"):
        COMPUTE_TIMES["trace"](str(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(name, key, value) for name, table in MODELS.items() for key in table for value in (-1, float("nan"))
     if not (key == "worker" and value != -1)] + [("stalls", "probability", 1.5)],
)  # fmt: skip
def test_values_that_no_model_has_are_refused(name, key, value):
    with pytest.raises(UserError, match=f"{key} = {value}"):
        COMPUTE_TIMES[name](**MODELS[name] | {key: value})


def test_the_network_model_imports_no_torch_and_no_mpi():
    check = "import sys, decentral.network; assert not {'torch', 'mpi4py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
