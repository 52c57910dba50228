"""Graphs: shapes, small sizes, connectivity, refusals, files."""

from __future__ import annotations

import inspect

import networkx as nx
import pytest

import topologies
from topologies import TOPOLOGIES

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 31, 32, 64)


def built(name, n):
    """The graph, or None where the topology must refuse this n and name it."""
    impossible = n & (n - 1) if name == "hypercube" else n > 4 and n % 4
    if impossible and name in ("hypercube", "ring-of-cliques", "hierarchical"):
        with pytest.raises(ValueError, match=rf"n = {n}\b"):
            TOPOLOGIES[name](n)
        return None
    return TOPOLOGIES[name](n)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_topology_is_connected_in_order_and_without_self_loops(name):
    for n in SIZES:
        graph = built(name, n)
        if graph is None:
            continue
        assert list(graph) == list(range(n))
        assert nx.number_of_selfloops(graph) == 0
        assert nx.is_strongly_connected(graph) if graph.is_directed() else nx.is_connected(graph)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_one_worker_has_no_edge_and_two_workers_have_one(name):
    assert TOPOLOGIES[name](1).number_of_edges() == 0
    assert TOPOLOGIES[name](2).to_undirected().number_of_edges() == 1


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_signature_is_a_schema(name):
    n, *others = inspect.signature(TOPOLOGIES[name], eval_str=True).parameters.values()
    assert (n.name, n.annotation) == ("n", int)
    assert all(p.default is not p.empty and p.annotation is not p.empty for p in others)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (topologies.ring(9), nx.cycle_graph(9)),
        (topologies.path(9), nx.path_graph(9)),
        (topologies.grid(24), nx.grid_2d_graph(4, 6)),
        (topologies.grid(24, rows=2), nx.grid_2d_graph(2, 12)),
        (topologies.torus(24), nx.grid_2d_graph(4, 6, periodic=True)),
        (topologies.hypercube(32), nx.hypercube_graph(5)),
        (topologies.star(9), nx.star_graph(8)),
        (topologies.complete(7), nx.complete_graph(7)),
        (topologies.tree(15), nx.balanced_tree(2, 3)),
        (topologies.tree(13, branching=3), nx.balanced_tree(3, 2)),
        (topologies.ring_of_cliques(20, clique_size=5), nx.ring_of_cliques(4, 5)),
        (topologies.symmetric_exponential(8), nx.circulant_graph(8, [1, 2, 4])),
        (topologies.symmetric_exponential(16, base=4), nx.circulant_graph(16, [1, 4])),
        (
            topologies.hierarchical(20, group_size=4),
            nx.strong_product(nx.cycle_graph(5), nx.complete_graph(4)),
        ),
    ],
)
def test_a_graph_is_the_one_networkx_builds(ours, theirs):
    assert nx.is_isomorphic(ours, theirs)


def test_the_exponential_graph_sends_to_the_powers_of_two():
    assert set(topologies.exponential(12).successors(0)) == {1, 2, 4, 8}
    assert set(topologies.exponential(12).predecessors(0)) == {11, 10, 8, 4}
    assert set(topologies.exponential(8).successors(7)) == {0, 1, 3}


@pytest.mark.parametrize("n", [5, 7, 13])
def test_a_torus_of_prime_size_is_a_ring_and_a_grid_is_a_path(n):
    assert nx.utils.edges_equal(topologies.torus(n).edges, topologies.ring(n).edges)
    assert nx.utils.edges_equal(topologies.grid(n).edges, topologies.path(n).edges)


def test_a_torus_with_a_side_of_two_has_no_double_edge():
    degrees = dict(topologies.torus(8).degree).values()
    assert set(degrees) == {3}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (topologies.random_regular(16, degree=4, seed=0), nx.random_regular_graph(4, 16, seed=0)),
        (topologies.erdos_renyi(16, p=0.3, seed=0), nx.erdos_renyi_graph(16, 0.3, seed=0)),
        (topologies.watts_strogatz(16, seed=0), nx.connected_watts_strogatz_graph(16, 4, 0.3, seed=0)),
        (topologies.geometric(16, radius=0.5, seed=3), nx.random_geometric_graph(16, 0.5, seed=3)),
    ],
)
def test_the_first_draw_is_the_one_of_networkx(ours, theirs):
    assert nx.is_connected(theirs)
    assert nx.utils.edges_equal(ours.edges, theirs.edges)


@pytest.mark.parametrize("name", ["random-regular", "erdos-renyi", "watts-strogatz", "geometric"])
def test_a_seed_names_one_graph_and_other_seeds_other_graphs(name):
    edges = [sorted(map(sorted, TOPOLOGIES[name](32, seed=seed).edges)) for seed in (1, 1, 2)]
    assert edges[0] == edges[1] != edges[2]


@pytest.mark.parametrize("name", ["random-regular", "erdos-renyi", "watts-strogatz", "geometric"])
def test_the_defaults_connect_every_seed(name):
    for seed in range(20):
        assert nx.is_connected(TOPOLOGIES[name](48, seed=seed))


def test_a_disconnected_draw_is_drawn_again():
    seed = next(s for s in range(100) if not nx.is_connected(nx.erdos_renyi_graph(16, 0.15, seed=s)))
    assert nx.is_connected(topologies.erdos_renyi(16, p=0.15, seed=seed))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: topologies.ring(0), "ring needs at least one worker (n = 0); use 1 or more"),
        (lambda: topologies.ring(True), "ring needs an integer number of workers (n = True); use n = 8, say"),
        (lambda: topologies.star(2.0), "star needs an integer number of workers (n = 2.0); use n = 8, say"),
        (lambda: topologies.hypercube(6), "hypercube needs a power of two workers (n = 6); use 4 or 8"),
        (lambda: topologies.grid(12, rows=5), "use a divisor of n: 1, 2, 3, 4, 6, 12"),
        (lambda: topologies.tree(5, branching=0), "use 2, say"),
        (lambda: topologies.symmetric_exponential(5, base=1), "use 2 or 4"),
        (lambda: topologies.ring_of_cliques(6), "use clique_size = a divisor of n: 1, 2, 3, 6"),
        (lambda: topologies.hierarchical(9), "use group_size = a divisor of n: 1, 3, 9"),
        (lambda: topologies.random_regular(7, degree=3), "(n = 7, degree = 3); use degree = 4"),
        (lambda: topologies.random_regular(8, degree=1), "never connected (n = 8); use degree = 2 or more"),
        (lambda: topologies.random_regular(8, degree=0), "use degree = 2"),
        (lambda: topologies.erdos_renyi(8, p=1.5), "between 0 and 1 (p = 1.5)"),
        (
            lambda: topologies.erdos_renyi(50, p=0.001),
            "disconnected in 100 draws (n = 50, seed = 0); raise p",
        ),
        (lambda: topologies.watts_strogatz(9, k=3), "even k of 2 or more (k = 3); use k = 4"),
        (lambda: topologies.watts_strogatz(9, p=-1), "between 0 and 1 (p = -1)"),
        (lambda: topologies.geometric(9, radius=-1.0), "positive radius (radius = -1.0)"),
        (lambda: topologies.geometric(50, radius=0.01), "raise radius"),
    ],
)
def test_an_impossible_graph_is_refused_in_one_line_with_a_remedy(call, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  (the message is checked below, literally)
        call()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
