"""Graphs and matrices from files."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from scipy import io, sparse

import topologies


@pytest.mark.parametrize("suffix", ["graphml", "gml", "json", "edgelist", "edges", "txt", "adjlist"])
@pytest.mark.parametrize("directed", [False, True])
def test_a_written_graph_is_read_back(tmp_path, suffix, directed):
    graph = topologies.exponential(12) if directed else topologies.geometric(12)
    topologies.write_graph(graph, tmp_path / f"g.{suffix}")
    back = topologies.read_graph(tmp_path / f"g.{suffix}", directed=directed)
    assert list(back) == list(range(12))
    assert back.is_directed() == directed
    assert nx.utils.edges_equal(graph.edges, back.edges, directed=directed)


@pytest.mark.parametrize("suffix", ["graphml", "gml", "json", "edgelist"])
def test_weights_of_edges_survive_a_file(tmp_path, suffix):
    graph = nx.Graph()
    graph.add_weighted_edges_from([(0, 1, 0.25), (1, 2, 0.5)])
    topologies.write_graph(graph, tmp_path / f"g.{suffix}")
    w = topologies.mixing_matrix(topologies.read_graph(tmp_path / f"g.{suffix}"), "edge-weight")
    np.testing.assert_array_equal(w.toarray(), [[0.75, 0.25, 0], [0.25, 0.25, 0.5], [0, 0.5, 0.5]])


def test_labels_are_numbered_in_natural_order(tmp_path):
    (tmp_path / "g.txt").write_text("node10, node2  # a comment\n\nnode2 node1\nnode10 switch\n")
    graph = topologies.read_graph(tmp_path / "g.txt")
    assert [graph.nodes[i]["label"] for i in graph] == ["node1", "node2", "node10", "switch"]
    assert set(graph.edges) == {(0, 1), (1, 2), (2, 3)}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.txt", "0 1\n0 1 2 3\n", "line 2 is '0 1 2 3'; expected an edge list"),
        ("g.txt", "0 1 heavy\n", "line 1 is '0 1 heavy': the weight is no number; write one, with a point"),
        ("g.txt", "# nothing\n", "the graph has no nodes"),
        (
            "g.txt",
            "0 1\n1 2\n1 0\n",
            "some edges are there twice (0 - 1: line 1 and line 3); leave one of each",
        ),
        ("g.json", "{}", "expected node-link JSON with 'nodes' and 'edges'"),
        ("g.json", "{", "expected node-link JSON"),
        ("g.graphml", "<a>", "expected GraphML"),
        ("g.gml", "graph [", "expected GML"),
        ("g.png", "", "no graph format has the suffix '.png'; use .graphml, .gml, .json"),
    ],
)
def test_a_bad_graph_file_is_refused_by_name(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        topologies.read_graph(tmp_path / name)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path / name))
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.gml: no such file; expected GML"):
        topologies.read_graph(tmp_path / "absent.gml")
    with pytest.raises(ValueError, match=r"absent\.npy: no such file; expected a mixing matrix"):
        topologies.mixing_matrix(topologies.ring(3), tmp_path / "absent.npy")


def test_a_matrix_may_come_from_any_file(tmp_path):
    graph = topologies.star(5)
    w = topologies.mixing_matrix(graph)
    np.save(tmp_path / "w.npy", w.toarray())
    sparse.save_npz(tmp_path / "w.npz", w)
    io.mmwrite(tmp_path / "w.mtx", w, precision=17)
    np.savetxt(tmp_path / "w.csv", w.toarray(), delimiter=",")
    np.savetxt(tmp_path / "w.txt", w.toarray())
    for suffix in ("npy", "npz", "mtx", "csv", "txt"):
        read = topologies.mixing_matrix(graph, str(tmp_path / f"w.{suffix}"))
        np.testing.assert_array_equal(read.toarray(), w.toarray())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("w.csv", "1,x\n", "expected a mixing matrix as .csv"),
        ("w.npy", "rubbish", "expected a mixing matrix as .npy"),
        ("w.npz", "rubbish", "expected a mixing matrix as .npz"),
        ("w.mtx", "rubbish", "expected a mixing matrix as .mtx"),
        ("w.pt", "", "no matrix format has the suffix '.pt'; use .npy, .npz, .mtx, .csv, .txt"),
        ("w.csv", "1,0\n", "the mixing matrix is 1 x 2; it must be square"),
    ],
)
def test_a_bad_matrix_file_is_refused_by_name(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        topologies.mixing_matrix(topologies.ring(2), tmp_path / name)
    assert message in str(refusal.value)
    assert name in str(refusal.value)
