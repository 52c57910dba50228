"""Schedules of graphs from files: one a round, in turn."""

from __future__ import annotations

import pickle

import networkx as nx
import numpy as np
import pytest
import tomli_w
from command import decentral, experiment, metrics

import topologies
from decentral.errors import UserError
from decentral.report.graphs import graph_of
from decentral.runs.sections.paths import absolute_paths
from decentral.runs.sections.topology import Topology
from topologies import from_files, mixing_matrix

PAIRS = np.kron(np.eye(2), np.full((2, 2), 0.5))  # 0-1 and 2-3
CROSSED = np.roll(PAIRS, (1, 1), (0, 1))  # 1-2 and 3-0


@pytest.fixture
def files(tmp_path):
    """Two perfect matchings of four workers, which together are a ring, in two formats."""
    (tmp_path / "a.edgelist").write_text("0 1\n2 3\n")
    topologies.write_graph(nx.Graph([(0, 3), (1, 2)]), tmp_path / "b.graphml")
    return [tmp_path / "a.edgelist", tmp_path / "b.graphml"]


def test_graphs_take_turns(files):
    schedule = from_files(files)
    assert (schedule.n, schedule.period) == (4, 2)
    for t in range(6):
        np.testing.assert_array_equal(schedule.matrix(t).toarray(), CROSSED if t % 2 else PAIRS)
    np.testing.assert_allclose(topologies.product(schedule), 0.25)  # two exact means of pairs


def test_a_file_may_come_twice_and_one_is_enough(files, tmp_path):
    thrice = from_files([files[0], files[1], files[1]])
    assert thrice.period == 3
    np.testing.assert_array_equal(thrice.matrix(4).toarray(), CROSSED)
    topologies.write_graph(topologies.torus(9), tmp_path / "torus.json")
    alone = from_files([str(tmp_path / "torus.json")], "lazy")
    w = mixing_matrix(topologies.torus(9), "lazy")
    assert (alone.matrix(7) != w).nnz == 0


@pytest.mark.parametrize(
    "weights", ["metropolis", "uniform", "max-degree", "lazy-max-degree", "best-constant"]
)
def test_each_round_is_weighted_by_the_rule(tmp_path, weights):
    graphs = [topologies.star(6), topologies.ring(6)]
    paths = [tmp_path / f"{i}.gml" for i in range(2)]
    for graph, path in zip(graphs, paths, strict=True):
        topologies.write_graph(graph, path)
    schedule = from_files(paths, weights)
    for t, graph in enumerate(graphs):
        np.testing.assert_array_equal(schedule.matrix(t).toarray(), mixing_matrix(graph, weights).toarray())


def test_edge_weights_are_those_of_the_files(tmp_path):
    (tmp_path / "a.txt").write_text("0 1 0.25\n2\n")
    (tmp_path / "b.txt").write_text("1 2 0.5\n0\n")
    schedule = from_files([tmp_path / "a.txt", tmp_path / "b.txt"], "edge-weight")
    np.testing.assert_array_equal(schedule.matrix(0).toarray(), [[0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0, 1]])
    np.testing.assert_array_equal(schedule.matrix(1).toarray(), [[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]])


def test_directed_lists_keep_their_directions(tmp_path):
    (tmp_path / "a.txt").write_text("0 1\n1 2\n2 0\n")
    (tmp_path / "b.txt").write_text("1 0\n2 1\n0 2\n")
    schedule = from_files([tmp_path / "a.txt", tmp_path / "b.txt"], "uniform", directed=True)
    w = schedule.matrix(0).toarray()
    np.testing.assert_array_equal(w, [[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]])
    np.testing.assert_array_equal(schedule.matrix(1).toarray(), w.T)


def test_workers_are_numbered_alike_whatever_a_file_names_first(tmp_path):
    (tmp_path / "a.txt").write_text("node10 node2\nnode1\n")
    (tmp_path / "b.txt").write_text("node1 node10\nnode2\n")
    schedule = from_files([tmp_path / "a.txt", tmp_path / "b.txt"])
    assert schedule.matrix(0)[1, 2] == schedule.matrix(1)[0, 2] == 0.5


def test_it_can_be_sent_to_other_ranks(files):
    sent = pickle.loads(pickle.dumps(from_files(files)))
    np.testing.assert_array_equal(sent.matrix(1).toarray(), CROSSED)


@pytest.mark.parametrize(
    ("second", "weights", "message"),
    [
        (
            "0 1\n2\n",
            "metropolis",
            "a.txt has 4 nodes and {b} 3; {b} has no node '3', which {a} has: give all",
        ),
        ("0 1\n2 3\n4\n", "metropolis", "a.txt has 4 nodes and {b} 5; {a} has no node '4', which {b} has"),
        ("0 1\n2 x\n", "metropolis", "{b} has no node '3', which {a} has: give all files the same nodes"),
        ("2 3\n1 0\n", "metropolis", "workers 0 and 2 cannot both reach each other"),
        ("0 1\n2 3\n", "best-constant", "{a}: best-constant needs a connected graph in every round"),
        ("0 1\n2 3\n", "lazy-best-constant", "{a}: best-constant needs a connected graph in every round"),
        ("0 1\n2 3\n", "edge-weight", "{a}: edge-weight needs a number 'weight' on every edge"),
        ("0 1\n2 3\n", "metro", "unknown weights 'metro' of several files; use one of metropolis, uniform"),
        ("0 1 2 3\n", "metropolis", "{b}: line 1 is '0 1 2 3'; expected an edge list"),
    ],
)
def test_files_that_make_no_schedule_are_refused(tmp_path, second, weights, message):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("0 1\n2 3\n")
    b.write_text(second)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        from_files([a, b], weights)
    assert message.format(a=a, b=b) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_and_no_list_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match=r"absent\.gml: no such file; expected GML$"):
        from_files([*files, tmp_path / "absent.gml"])
    for paths in ([], "a.txt", files[0]):
        with pytest.raises(
            ValueError, match=r"^paths = .* should be a list of graph files.*; give one at least$"
        ):
            from_files(paths)


def test_a_table_finds_its_workers_and_keeps_what_repeats_it(files):
    table = {"name": "files", "paths": [str(path) for path in files]}
    topology = Topology.from_table(table)
    assert topology.resolved() == {**table, "workers": 4, "weights": "metropolis"}
    assert Topology.from_table(topology.resolved()) == topology
    np.testing.assert_array_equal(topology.mixing().matrix(1).toarray(), CROSSED)
    assert nx.utils.edges_equal(graph_of(topology.resolved()).edges, topologies.ring(4).edges)
    lazy = Topology.from_table({**table, "weights": "lazy"}).mixing().matrix(0).toarray()
    np.testing.assert_array_equal(lazy, (PAIRS + np.eye(4)) / 2)
    with pytest.raises(UserError, match=r"^topology.workers = 5 but .*a\.edgelist has 4 nodes; set the key"):
        Topology.from_table({**table, "workers": 5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": []}, "[topology] paths = [] should be a list of graph files"),
        ({"paths": "a.edgelist"}, "topology.paths = 'a.edgelist' should be a valid list"),
        ({"paths": [3]}, "topology.paths = 3 should be a valid string"),
        ({"path": "a.edgelist"}, "unknown key topology.path of files; did you mean 'paths'?"),
        ({"weights": "metro"}, "[topology] unknown weights 'metro'"),
        ({"workers": 0}, "topology.workers = 0 should be an integer of at least 1"),
    ],
)
def test_a_wrong_table_is_refused(files, change, message):
    table = {"name": "files", "paths": [str(path) for path in files]}
    with pytest.raises(UserError) as refusal:
        Topology.from_table(table | change)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match=r"^missing key topology\.paths; add it"):
        Topology.from_table({"name": "files"})


def test_paths_are_relative_to_the_experiment_also_in_a_sweep(files, tmp_path):
    names = [path.name for path in files]
    found = absolute_paths(
        {"topology": {"paths": names}, "sweep": {"topology": [{"paths": [*names, "no"]}]}}, tmp_path
    )
    paths = [str(path) for path in files]
    assert found == {"topology": {"paths": paths}, "sweep": {"topology": [{"paths": [*paths, "no"]}]}}


@pytest.mark.usefixtures("undrawn")
def test_it_runs_from_a_toml_file(files, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    table = experiment(topology={"name": "files", "paths": [path.name for path in files]})
    (tmp_path / "x.toml").write_text(tomli_w.dumps(table))
    said = decentral("run", tmp_path / "x.toml", "--out", "out")
    assert said.code == 0, said.err
    (rows,) = metrics(tmp_path / "elsewhere" / "out").values()
    vector_bytes = 3 * 8
    assert [float(row["bytes_sent_max"]) for row in rows] == [t * vector_bytes for t in range(7)]
