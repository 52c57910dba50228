"""MATCHA against enumeration, grids, simulation and an upper bound from linear programs."""

from __future__ import annotations

import itertools
import math
import pickle
import sys

import networkx as nx
import numpy as np
import pytest
from scipy.optimize import linprog

import topologies
from decentral.runs.sections.topology import Topology
from topologies import is_doubly_stochastic, is_symmetric, matcha, matcha_of, matchings, mixing_matrix
from topologies.activation import (
    LARGEST,
    activation_probabilities,
    expected_rho,
    laplacians,
    mixing_weight,
)

UNDIRECTED = sorted(topologies.TOPOLOGIES.keys() - {"exponential"})


def parts(graph):
    """The Laplacian of each matching, (M, n, n)."""
    return laplacians(len(graph), matchings(graph))


def lambda_2(L, p):
    return np.linalg.eigvalsh(np.tensordot(p, L, 1))[1]


def assert_edge_colouring(graph):
    """Every edge is in one matching, and there are Delta of them (bipartite) or Delta + 1 at most."""
    found = matchings(graph)
    edges = [edge for matching in found for edge in matching]
    assert sorted(edges) == sorted({(min(e), max(e)) for e in graph.edges if e[0] != e[1]})
    for matching in found:
        assert matching
        assert nx.is_matching(graph, set(matching))
    simple = nx.Graph(edges)
    delta = max((d for _, d in simple.degree), default=0)
    assert len(found) == delta if nx.is_bipartite(simple) else delta <= len(found) <= delta + 1


def enumerated(L, p, alpha):
    """E[W'W] over all activations, each with its probability, (n, n)."""
    n = L.shape[1]
    total = np.zeros((n, n))
    for active in itertools.product([0, 1], repeat=len(p)):
        chance = np.prod(np.where(active, p, 1 - p))
        w = np.eye(n) - alpha * np.tensordot(active, L, 1)
        total += chance * w.T @ w
    return total


def rho_of(second_moment):
    return np.linalg.norm(second_moment - 1 / len(second_moment), 2)


def upper_bound(L, budget, first):
    """On lambda_2 over all probabilities: cutting planes, each an eigenvector of the mean graph at some p."""
    m, cuts, p, best, low = len(L), [], first, first, -1.0
    apart = np.linalg.qr(np.eye(L.shape[1])[:, 1:] - 1 / L.shape[1])[0]
    A = apart.T @ L @ apart
    for turn in range(400):
        values, vectors = np.linalg.eigh(np.tensordot(p, A, 1))
        if values[0] > low:
            low, best = values[0], p
        cuts += list(np.einsum("ai,jab,bi->ij", vectors[:, :8], A, vectors[:, :8], optimize=True))
        rows = np.vstack([np.column_stack([-np.array(cuts), np.ones(len(cuts))]), [*np.ones(m), 0]])
        found = linprog(
            [*np.zeros(m), -1], rows, [*np.zeros(len(cuts)), budget * m], bounds=[(0, 1)] * m + [(None, None)]
        )
        if -found.fun - low < 3e-6 * low:
            break
        p = found.x[:m] if turn % 2 else (best + found.x[:m]) / 2
    return -found.fun


def test_random_graphs_fall_into_few_matchings():
    rng = np.random.default_rng(0)
    for seed in range(600):
        graph = nx.gnp_random_graph(int(rng.integers(1, 14)), rng.random(), seed=seed)
        assert_edge_colouring(graph)
        assert_edge_colouring(nx.bipartite.random_graph(*rng.integers(1, 9, 2), rng.random(), seed=seed))


@pytest.mark.parametrize("name", UNDIRECTED)
@pytest.mark.parametrize("n", [2, 8, 16, 64])
def test_named_graphs_fall_into_few_matchings(name, n):
    assert_edge_colouring(topologies.TOPOLOGIES[name](n))


@pytest.mark.parametrize(
    ("graph", "count"),
    [
        (topologies.ring(2), 1),
        (topologies.ring(16), 2),
        (topologies.ring(15), 3),
        (topologies.star(9), 8),
        (topologies.hypercube(32), 5),
        (topologies.complete(7), 7),
        (nx.petersen_graph(), 4),  # no 3 will do
        (nx.Graph(), 0),
    ],
)
def test_the_number_of_matchings_where_it_is_known(graph, count):
    assert len(matchings(graph)) == count


def test_matchings_number_workers_as_a_mixing_matrix_does_and_skip_self_loops():
    graph = nx.MultiGraph([("b", "a"), ("a", "b"), ("c", "c"), ("a", "c")])
    assert sorted(itertools.chain(*matchings(graph))) == [(0, 1), (1, 2)]
    assert sorted(itertools.chain(*matchings(nx.Graph([(2, 1), (1, 0)])))) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("name", ["torus", "star", "geometric"])
def test_laplacians_of_matchings_sum_to_that_of_the_graph(name):
    graph = topologies.TOPOLOGIES[name](12)
    L = parts(graph)
    np.testing.assert_array_equal(L.sum(axis=0), nx.laplacian_matrix(graph, range(12)).toarray())
    for one in L:
        np.testing.assert_array_equal(one @ one, 2 * one)


@pytest.mark.parametrize("budget", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("graph", [topologies.path(6), nx.lollipop_graph(3, 4), topologies.tree(7)])
def test_probabilities_are_as_good_as_the_best_of_a_grid(graph, budget):
    L = parts(graph)
    m = len(L)
    p = activation_probabilities(L, budget)
    axis = np.linspace(0, 1, 401 if m == 2 else 81)
    # more of a matching never hurts, so the optimum spends the whole budget
    last = [(*some, budget * m - sum(some)) for some in itertools.product(axis, repeat=m - 1)]
    grid = np.array([point for point in last if 0 <= point[-1] <= 1])
    values = np.linalg.eigvalsh(np.tensordot(grid, L, 1))[:, 1]
    assert m in (2, 3)
    assert values.max() <= lambda_2(L, p) * (1 + 1e-5)
    # and no better than the grid can be: lambda_2 moves by no more than |L_j| = 2 a step of p_j
    assert lambda_2(L, p) <= values.max() + 2 * m * (axis[1] - axis[0])
    assert abs(p - grid[values.argmax()]).max() < 4 * (axis[1] - axis[0])


@pytest.mark.parametrize("budget", [0.01, 0.4, 0.99])
@pytest.mark.parametrize("name", UNDIRECTED)
def test_probabilities_keep_their_budget_and_reach_an_upper_bound(name, budget):
    L = parts(topologies.TOPOLOGIES[name](16))
    p = activation_probabilities(L, budget)
    assert p.min() >= 0
    assert p.max() <= 1
    assert p.sum() <= budget * len(p) * (1 + 1e-12)
    assert lambda_2(L, p) >= upper_bound(L, budget, p) * (1 - 1.5e-5)
    np.testing.assert_array_equal(activation_probabilities(L, budget), p)


def test_the_solver_copes_with_trees():
    for seed in range(30):
        L = parts(nx.random_labeled_tree(21, seed=seed))
        assert activation_probabilities(L, 1 / 3).sum() == pytest.approx(len(L) / 3, rel=1e-6)


def test_a_bridge_is_kept_more_often_than_what_it_joins():
    graph = nx.barbell_graph(4, 0)
    found = matchings(graph)
    p = activation_probabilities(laplacians(8, found), 0.4)
    (bridge,) = [j for j, matching in enumerate(found) if (3, 4) in matching]
    assert p[bridge] == p.max() > 0.6


@pytest.fixture
def without_cvxpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)


@pytest.mark.usefixtures("without_cvxpy")
def test_the_even_choice_needs_no_solver_where_it_is_optimal():
    for graph, budget in [
        (topologies.ring(16), 0.5),
        (topologies.ring(2), 0.3),
        (topologies.hypercube(16), 0.25),
        (nx.lollipop_graph(5, 3), 1),
    ]:
        L = parts(graph)
        np.testing.assert_array_equal(activation_probabilities(L, budget), np.full(len(L), budget))


@pytest.mark.usefixtures("without_cvxpy")
def test_without_cvxpy_other_graphs_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"^matcha needs cvxpy .*; pip install 'decentral\[matcha\]'$"):
        matcha(8, "geometric", 0.123)


@pytest.mark.parametrize("budget", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("graph", [topologies.path(5), topologies.star(5), nx.lollipop_graph(4, 2)])
def test_the_weight_minimizes_the_second_moment_of_all_activations(graph, budget):
    L = parts(graph)
    p = activation_probabilities(L, budget)
    alpha = mixing_weight(L, p)
    rho = rho_of(enumerated(L, p, alpha))
    assert rho < 1
    assert expected_rho(L, p, alpha) == pytest.approx(rho, abs=1e-13)
    grid = np.linspace(0, 3 * alpha, 601)
    values = [rho_of(enumerated(L, p, a)) for a in grid]
    assert rho <= min(values) + 1e-9
    assert alpha == pytest.approx(grid[np.argmin(values)], abs=grid[1])


@pytest.mark.parametrize("name", ["star", "torus", "geometric", "complete"])
def test_with_the_whole_budget_it_is_the_best_constant(name):
    graph = topologies.TOPOLOGIES[name](12)
    w = matcha(12, name, 1.0).matrix(3)
    np.testing.assert_allclose(w.toarray(), mixing_matrix(graph, "best-constant").toarray(), atol=1e-6)


def test_two_workers_by_hand():
    # one matching, active in half of the rounds: rho = 1 - 2 a + 2 a^2
    L = parts(topologies.ring(2))
    assert mixing_weight(L, np.array([0.5])) == pytest.approx(0.5, abs=1e-8)
    assert expected_rho(L, np.array([0.5]), 0.5) == pytest.approx(0.5)


def test_rounds_have_the_second_moment_that_was_minimized():
    graph, budget, rounds = nx.lollipop_graph(4, 2), 0.4, 4000
    L = parts(graph)
    p = activation_probabilities(L, budget)
    schedule = matcha_of(graph, budget, seed=3)
    matrices = np.array([schedule.matrix(t).toarray() for t in range(rounds)])
    squares = matrices.transpose(0, 2, 1) @ matrices
    error = np.std(squares, axis=0) / math.sqrt(rounds)
    expected = enumerated(L, p, mixing_weight(L, p))
    assert (abs(squares.mean(axis=0) - expected) <= 5 * error + 1e-12).all()
    # each matching is there as a whole, as often as p says, whatever the others do
    present = [matrices[:, *np.transpose(matching)] != 0 for matching in matchings(graph)]
    assert all((flags == flags[:, :1]).all() for flags in present)
    active = np.stack([flags[:, 0] for flags in present])
    error = 5 * np.sqrt(p * (1 - p) / rounds) + 1e-6
    assert (abs(active.mean(axis=1) - p) <= error).all()
    assert abs(np.cov(active) - np.diag(p * (1 - p))).max() <= 5 * 0.25 / math.sqrt(rounds)


@pytest.mark.parametrize("name", ["ring", "torus", "geometric"])
def test_every_round_is_symmetric_doubly_stochastic_and_on_the_graph(name):
    graph = topologies.TOPOLOGIES[name](16)
    schedule = matcha(16, name, 0.4, seed=2)
    assert (schedule.n, schedule.period) == (16, None)
    seen = nx.Graph()
    for t in range(60):
        w = schedule.matrix(t)
        topologies.check_mixing_matrix(w, graph, connected=False)
        assert is_symmetric(w)
        assert is_doubly_stochastic(w)
        assert w.has_canonical_format
        coo = w.tocoo()
        assert (coo.data[coo.row != coo.col] > 0).all()
        assert (coo.row == coo.col).sum() == 16
        assert len(set(coo.data[coo.row != coo.col])) <= 1  # alpha
        seen.add_edges_from(zip(coo.row.tolist(), coo.col.tolist(), strict=True))
    assert nx.is_connected(seen)
    topologies.union(schedule)


def test_rounds_are_a_function_of_the_seed_and_the_round():
    one, other = matcha(12, "torus", 0.4, seed=1), matcha(12, "torus", 0.4, seed=2)
    again = pickle.loads(pickle.dumps(matcha_of(topologies.torus(12), 0.4, seed=1)))
    rounds = range(20)
    assert all((one.matrix(t) != again.matrix(t)).nnz == 0 for t in reversed(rounds))
    assert any((one.matrix(t) != other.matrix(t)).nnz for t in rounds)
    assert any((one.matrix(t) != one.matrix(0)).nnz for t in rounds)


def test_a_round_of_many_workers_costs_its_edges():
    w = matcha(200, "ring", 1.0).matrix(0)
    assert w.data.size == w.indices.size == 3 * 200


def test_a_table_is_solved_once(monkeypatch):
    table = {"name": "matcha", "workers": 16, "graph": "geometric", "budget": 0.37, "seed": 5}
    topology = Topology.from_table(table)
    assert topology.resolved() == table
    monkeypatch.setattr(sys.modules["topologies.activation"], "activation_probabilities", None)
    mixed = topology.mixing()
    assert (mixed.matrix(4) != matcha(16, "geometric", 0.37, 5).matrix(4)).nnz == 0


@pytest.mark.parametrize("budget", [0, -0.1, 1.5, math.nan, math.inf, True, "half", None])
def test_a_budget_outside_0_to_1_is_refused(budget):
    with pytest.raises(ValueError, match=r"^budget = .* must be above 0 and at most 1; use 0.5, say$"):
        matcha(8, budget=budget)
    with pytest.raises(ValueError, match="must be above 0"):
        activation_probabilities(parts(topologies.ring(4)), budget)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matcha(0), "matcha needs at least one worker (n = 0)"),
        (lambda: matcha(1), "matcha needs two workers or more (n = 1)"),
        (lambda: matcha(2.0), "matcha needs an integer number of workers (n = 2.0)"),
        (lambda: matcha(8, "rign"), "matcha has no graph 'rign'; use one of ring, path"),
        (lambda: matcha(8, "exponential"), "(exponential is directed); use symmetric-exponential"),
        (lambda: matcha(6, "hypercube"), "hypercube needs a power of two workers (n = 6)"),
        (lambda: matcha_of(nx.DiGraph([(0, 1), (1, 0)])), "(this one is directed)"),
        (lambda: matcha_of(nx.Graph([(0, 1), (2, 3)])), "workers 0 and 2 cannot both reach each other"),
        (lambda: matcha_of(nx.empty_graph(3)), "the graph is not connected"),
        (lambda: matcha_of(nx.Graph()), "the graph has no workers; give it at least one node"),
        (lambda: matcha(LARGEST + 1, "geometric", 0.3), f"use at most {LARGEST} workers, or budget = 1"),
    ],
)
def test_what_matcha_cannot_use_is_refused(call, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        call()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
