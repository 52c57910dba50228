"""Mixing matrices: sums, support, symmetry, conventions, refusals."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import topologies
from topologies import TOPOLOGIES, WEIGHTS, check_mixing_matrix, mixing_matrix

RULES = [rule for rule in WEIGHTS if "edge-weight" not in rule]
SIZES = (1, 2, 3, 4, 5, 8, 12, 16, 27, 32)


def dense_laplacian_weights(graph):
    """Best-constant by its definition, in dense algebra."""
    laplacian = nx.laplacian_matrix(graph, nodelist=range(len(graph))).toarray()
    values = np.linalg.eigvalsh(laplacian)
    return np.eye(len(graph)) - 2 / (values[1] + values[-1]) * laplacian


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_rule_on_every_topology_is_a_mixing_matrix_on_the_graph(name, rule):
    for n in SIZES:
        try:
            graph = TOPOLOGIES[name](n)
        except ValueError:
            continue
        if graph.is_directed() and "best-constant" in rule and n > 3:
            continue
        w = mixing_matrix(graph, rule)
        assert isinstance(w, sparse.csr_array)
        assert w.dtype == np.float64
        dense, adjacency = w.toarray(), nx.to_numpy_array(graph, nodelist=range(n), weight=None)
        assert abs(dense.sum(axis=0 if "push" in rule else 1) - 1).max() < 1e-13
        off_diagonal = dense - np.diag(dense.diagonal())
        np.testing.assert_array_equal(off_diagonal != 0, adjacency.T != 0)
        for i in range(n):
            columns = list(w.indices[w.indptr[i] : w.indptr[i + 1]])
            assert columns == sorted({i, *np.flatnonzero(adjacency[:, i])})
        if "push" in rule:
            np.testing.assert_allclose(
                dense,
                mixing_matrix(
                    graph.reverse() if graph.is_directed() else graph, rule.replace("push", "uniform")
                )
                .toarray()
                .T,
                atol=1e-15,
            )
        elif "uniform" not in rule:
            assert abs(dense.sum(axis=0) - 1).max() < 1e-13
            assert topologies.is_symmetric(w) == bool((dense == dense.T).all() or not graph.is_directed())
        if "best-constant" not in rule:
            assert dense.min() >= 0


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 24), p=st.floats(0.1, 0.9), seed=st.integers(0, 1000), rule=st.sampled_from(RULES))
def test_any_connected_graph_gets_a_connected_matrix_with_gap_in_bounds(n, p, seed, rule):
    graph = nx.compose(nx.erdos_renyi_graph(n, p, seed=seed), nx.path_graph(n))
    w = mixing_matrix(graph, rule)
    if "push" in rule:
        check_mixing_matrix(w, graph, sums="columns")
        return
    check_mixing_matrix(w, graph, doubly_stochastic="uniform" not in rule, symmetric="uniform" not in rule)
    if "uniform" not in rule:
        assert 0 < topologies.spectral_gap(w) <= 1 + 1e-12


def test_an_edge_from_j_to_i_fills_row_i():
    graph = nx.DiGraph([(0, 1), (0, 2), (1, 2), (2, 0)])
    w = mixing_matrix(graph, "uniform").toarray()
    np.testing.assert_allclose(w, [[1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(w @ [1.0, 2.0, 6.0], [3.5, 1.5, 3.0])


def test_push_weights_are_the_senders():
    graph = nx.DiGraph([(0, 1), (0, 2), (1, 2), (2, 0)])
    w = mixing_matrix(graph, "push").toarray()
    np.testing.assert_allclose(w, [[1 / 3, 0, 1 / 2], [1 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1 / 2]])
    with pytest.raises(ValueError, match="row 0 of the mixing matrix sums to"):
        check_mixing_matrix(w)
    with pytest.raises(ValueError, match=r"column 0 .* use weights 'push'"):
        check_mixing_matrix(w.T, sums="columns")
    with pytest.raises(ValueError, match="row 0 of the mixing matrix sums to"):
        check_mixing_matrix(w * 2, sums="either")


def test_metropolis_on_a_path_by_hand():
    w = mixing_matrix(topologies.path(3)).toarray()
    np.testing.assert_allclose(w, np.array([[2, 1, 0], [1, 1, 1], [0, 1, 2]]) / 3)


def test_max_degree_on_a_star_by_hand():
    w = mixing_matrix(topologies.star(4), "max-degree").toarray()
    np.testing.assert_allclose(w[0], [1 / 4] * 4)
    np.testing.assert_allclose(w[1], [1 / 4, 3 / 4, 0, 0])


def test_max_degree_is_doubly_stochastic_on_a_balanced_directed_graph_that_metropolis_refuses():
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 0), (2, 3), (3, 2)])
    assert topologies.is_doubly_stochastic(mixing_matrix(graph, "max-degree"))
    with pytest.raises(ValueError, match="they run from 1 to 2"):
        mixing_matrix(graph, "metropolis")


def test_metropolis_ignores_directions_where_all_edges_go_both_ways():
    graph = topologies.star(5)
    assert (mixing_matrix(graph) != mixing_matrix(graph.to_directed())).nnz == 0


@pytest.mark.parametrize(
    "graph", [topologies.ring(8), topologies.star(9), topologies.geometric(20), nx.petersen_graph()]
)
def test_best_constant_has_the_smallest_rho_of_all_constant_weights(graph):
    w = mixing_matrix(graph, "best-constant").toarray()
    np.testing.assert_allclose(w, dense_laplacian_weights(graph), atol=1e-12)
    rho = 1 - topologies.spectral_gap(w)
    identity = np.eye(len(graph))
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert 1 - topologies.spectral_gap(identity + factor * (w - identity)) > rho


@pytest.mark.parametrize(("n", "a", "rho"), [(8, 0.4361302, 0.7445208), (16, 0.4816677, 0.9266705)])
def test_best_constant_on_a_ring_has_the_published_weight(n, a, rho):
    w = mixing_matrix(topologies.ring(n), "best-constant")
    assert w[0, 1] == pytest.approx(a, abs=1e-7)
    assert 1 - topologies.spectral_gap(w) == pytest.approx(rho, abs=1e-7)


def test_best_constant_may_have_negative_weights_and_says_so():
    w = mixing_matrix(topologies.star(6), "best-constant")
    assert w[0, 0] < 0
    assert not topologies.is_nonnegative(w)
    assert not topologies.spectrum(w).nonnegative
    assert topologies.is_nonnegative(mixing_matrix(topologies.star(6)))


def test_best_constant_beyond_the_dense_limit_is_the_dense_one():
    graph = topologies.grid(1600)
    values = np.linalg.eigvalsh(nx.laplacian_matrix(graph).toarray().astype(float))
    w = mixing_matrix(graph, "best-constant")
    assert w[0, 1] == pytest.approx(2 / (values[1] + values[-1]), rel=1e-9)


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.startswith("lazy")])
def test_lazy_is_the_mean_of_the_identity_and_the_rule(rule):
    graph = topologies.geometric(12)
    expected = (np.eye(12) + mixing_matrix(graph, rule).toarray()) / 2
    np.testing.assert_allclose(mixing_matrix(graph, f"lazy-{rule}").toarray(), expected, atol=1e-15)
    if rule == "metropolis":
        np.testing.assert_array_equal(mixing_matrix(graph, "lazy").toarray(), expected)


def test_weights_on_edges_and_self_loops_are_ignored_by_the_other_rules():
    graph = topologies.ring(5)
    expected = mixing_matrix(graph)
    nx.set_edge_attributes(graph, 0.0, "weight")
    graph.add_edge(2, 2)
    assert (mixing_matrix(graph) != expected).nnz == 0


def test_rows_follow_the_names_of_nodes_where_these_are_numbers_and_the_graph_elsewhere():
    shuffled = nx.Graph([(2, 1), (1, 0)])
    assert mixing_matrix(shuffled)[0, 0] == pytest.approx(2 / 3)
    named = nx.Graph([("b", "a"), ("a", "c")])
    assert mixing_matrix(named)[1, 1] == pytest.approx(1 / 3)


def test_a_matrix_of_the_users_is_taken_as_it_is_with_its_diagonal_stored():
    given = np.array([[0.0, 1.0], [1.0, 0.0]])
    for matrix in (given, given.tolist(), sparse.coo_matrix(given), sparse.csc_array(given)):
        w = mixing_matrix(topologies.path(2), matrix)
        np.testing.assert_array_equal(w.toarray(), given)
        assert w.nnz == 4


HALF = np.array([[0.5, 0.5, 0], [0.25, 0.5, 0.25], [0, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixing_matrix(nx.Graph()), "the graph has no workers; give it at least one node"),
        (
            lambda: mixing_matrix(topologies.ring(4), "metropols"),
            "unknown weights 'metropols'; use one of metropolis",
        ),
        (
            lambda: mixing_matrix(nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)])),
            "metropolis needs a directed graph whose in- and out-degrees are all equal (they run from 1 "
            "to 2); use weights 'uniform' or an undirected graph",
        ),
        (lambda: mixing_matrix(topologies.exponential(8), "best-constant"), "needs an undirected graph; use"),
        (lambda: mixing_matrix(topologies.ring(4), "edge-weight"), "(edge 0 -> 1 has none); add it"),
        (
            lambda: mixing_matrix(nx.Graph([(0, 1), (2, 3)])),
            "the graph is not connected: workers 0 and 2 cannot both reach each other (2 separate "
            "parts); add edges between the parts",
        ),
        (lambda: mixing_matrix(nx.DiGraph([(0, 1), (1, 2)]), "uniform"), "the graph is not connected"),
        (lambda: check_mixing_matrix(np.ones((2, 3))), "the mixing matrix is 2 x 3; it must be square"),
        (lambda: check_mixing_matrix(np.ones(3)), "the mixing matrix is 3; it must be square"),
        (lambda: check_mixing_matrix(np.eye(2) * 1j), "holds complex128; it must hold real numbers"),
        (
            lambda: check_mixing_matrix([[1, 0], [np.nan, 1]]),
            "row 1 of the mixing matrix holds a number that is not",
        ),
        (
            lambda: check_mixing_matrix([[0.5, 0.5], [0.5, 0.4]]),
            "row 1 of the mixing matrix sums to 0.9; every row must sum to 1: divide it by its sum",
        ),
        (
            lambda: check_mixing_matrix(HALF, doubly_stochastic=True),
            "column 0 of the mixing matrix sums to 0.75; a doubly stochastic matrix needs columns that sum "
            "to 1: use weights 'metropolis'",
        ),
        (
            lambda: check_mixing_matrix(HALF, symmetric=True),
            "W[0, 1] = 0.5 but W[1, 0] = 0.25; the mixing matrix must be symmetric: use weights 'metropolis'",
        ),
        (
            lambda: mixing_matrix(nx.Graph([(0, 1), (0, 2)]), HALF),
            "W[1, 2] = 0.25 but the graph has no edge 2 -> 1; add the edge or set the weight to zero",
        ),
        (
            lambda: mixing_matrix(topologies.ring(4), HALF),
            "has 3 workers but the graph has 4; give both the same",
        ),
    ],
)
def test_a_matrix_that_breaks_a_rule_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        call()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_matrix_need_not_be_connected_where_that_is_not_asked():
    check_mixing_matrix(np.eye(3), connected=False)
    with pytest.raises(ValueError, match="not connected"):
        check_mixing_matrix(np.eye(3))


@pytest.mark.parametrize(
    "weight",
    [
        np.float32(0.25),
        np.float16(0.25),
        Decimal("0.25"),
        Fraction(1, 4),
        torch.tensor(0.25),
        np.array(0.25),
        "0.25",
    ],
)
def test_a_weight_may_be_any_real_number(weight):
    graph = nx.cycle_graph(4)
    nx.set_edge_attributes(graph, weight, "weight")
    right = [[0.5, 0.25, 0, 0.25], [0.25, 0.5, 0.25, 0], [0, 0.25, 0.5, 0.25], [0.25, 0, 0.25, 0.5]]
    np.testing.assert_array_equal(mixing_matrix(graph, "edge-weight").toarray(), right)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.complex64(1j), "of type numpy.complex64; give a real number"),
        ([0.5], "that of 0 -> 1 is [0.5] of type list; give a real number"),
        ("heavy", "is 'heavy', which is no number"),
        (np.float32("nan"), "which is not finite"),
        (10**400, "which is not finite"),
        (torch.tensor([0.5]), "of type torch.Tensor; give a real number"),
    ],
)
def test_a_weight_that_is_no_real_number_is_named_with_its_type(weight, message):
    graph = nx.cycle_graph(4)
    nx.set_edge_attributes(graph, weight, "weight")
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        mixing_matrix(graph, "edge-weight")
    assert message in str(refusal.value)
