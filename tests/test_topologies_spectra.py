"""Spectra: published gaps, closed forms, dense algebra, large graphs."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from scipy import sparse

import topologies
from topologies import TOPOLOGIES, eigenvalues, mixing_matrix, spectral_gap, spectrum

TABLE = {
    "ring": (0.195262, 0.050747, 0.012810, 0.003210),
    "path": (0.050747, 0.012810, 0.003210, 0.000803),
    "grid": (0.146447, 0.131359, 0.034222, 0.032295),
    "torus": (None, 0.4, 0.117157, 0.117157),
    "hypercube": (0.5, 0.4, 0.333333, 0.285714),
    "star": (0.125, 0.0625, 0.03125, 0.015625),
    "exponential": (0.5, 0.4, 0.333333, 0.285714),
    "complete": (1, 1, 1, 1),
}
ODD_EXPONENTIAL = {5: 0.75, 7: 0.646447, 9: 0.558213, 11: 0.510419, 13: 0.543657, 15: 0.510102}
NAMED = [
    (nx.petersen_graph(), 0.5),
    (nx.LCF_graph(32, [5, -5, 13, -13], 8), 0.190983),
    (nx.florentine_families_graph(), 0.057441),
    (nx.davis_southern_women_graph(), 0.082098),
    (nx.karate_club_graph(), 0.031236),
    (nx.barbell_graph(4, 0), 0.07085),
    (nx.ring_of_cliques(4, 4), 0.07085),
    (topologies.watts_strogatz(16, seed=0), 0.14985),
    (topologies.random_regular(16, seed=0), 0.224323),
    (topologies.erdos_renyi(16, p=0.3, seed=0), 0.087535),
]


def gap(name, n):
    return spectral_gap(mixing_matrix(TOPOLOGIES[name](n)))


def dense_rho(w):
    """The definition, by a singular value decomposition."""
    return np.linalg.svd(w.toarray() - 1 / w.shape[0], compute_uv=False)[0]


@pytest.mark.parametrize("name", TABLE)
def test_gaps_are_the_published_ones(name):
    for n, expected in zip((8, 16, 32, 64), TABLE[name], strict=True):
        if expected is not None:
            assert gap(name, n) == pytest.approx(expected, abs=6e-7)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 9, 20, 101, 1200, 3000])
def test_gaps_follow_their_closed_forms(n):
    def bend(angle):
        return 2 / 3 * (1 - math.cos(angle))

    assert gap("ring", n) == pytest.approx(min(1, bend(2 * math.pi / n)) if n > 3 else 1, rel=1e-9)
    assert gap("path", n) == pytest.approx(bend(math.pi / n), rel=1e-8)
    assert gap("star", n) == pytest.approx(1 / n, rel=1e-8)
    torus = topologies.torus(3 * n, rows=3)
    assert spectral_gap(mixing_matrix(torus)) == pytest.approx(
        min(0.6, 0.4 * (1 - math.cos(2 * math.pi / n))) if n > 3 else 0.6, rel=1e-8
    )


@pytest.mark.parametrize("n", [4, 6, 10, 12, 16, 100, 2048])
def test_the_static_exponential_of_even_size_has_gap_two_over_one_plus_tau(n):
    tau = math.ceil(math.log2(n))
    assert gap("exponential", n) == pytest.approx(2 / (1 + tau), abs=1e-12)


@pytest.mark.parametrize(("n", "expected"), ODD_EXPONENTIAL.items())
def test_the_static_exponential_of_odd_size_is_strictly_better(n, expected):
    assert gap("exponential", n) == pytest.approx(expected, abs=6e-7)
    assert gap("exponential", n) > 2 / (1 + math.ceil(math.log2(n)))


@pytest.mark.parametrize(("graph", "expected"), NAMED)
def test_named_graphs_have_their_published_gaps(graph, expected):
    assert spectral_gap(mixing_matrix(graph)) == pytest.approx(expected, abs=6e-7)


@pytest.mark.parametrize("groups", [3, 5, 8])
def test_machines_on_a_ring_mix_as_fast_as_the_ring_of_machines(groups):
    w = mixing_matrix(topologies.hierarchical(4 * groups, group_size=4)).toarray()
    ring = mixing_matrix(topologies.ring(groups)).toarray()
    np.testing.assert_allclose(w, np.kron(ring, np.full((4, 4), 1 / 4)), atol=1e-14)
    assert gap("hierarchical", 4 * groups) == pytest.approx(gap("ring", groups), abs=1e-12)


@pytest.mark.parametrize("rule", ["metropolis", "uniform", "max-degree", "lazy"])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_spectrum_is_the_one_of_dense_algebra(name, rule):
    for n in (2, 3, 4, 8, 16, 24):
        try:
            graph = TOPOLOGIES[name](n)
        except ValueError:
            continue
        w = mixing_matrix(graph, rule)
        facts = spectrum(w)
        values = np.linalg.eigvals(w.toarray())
        modulus = np.sort(abs(values))[::-1]
        assert facts.rho == pytest.approx(dense_rho(w), abs=1e-12)
        assert facts.gap == 1 - facts.rho == spectral_gap(w)
        # Repeated eigenvalues of a matrix that is not symmetric are known to the root of rounding only.
        np.testing.assert_allclose(np.sort(abs(eigenvalues(w)))[::-1], modulus, atol=1e-7)
        if facts.symmetric:
            real = np.sort(values.real)[::-1]
            assert (facts.second, facts.last) == pytest.approx((real[1], real[-1]), abs=1e-12)
            np.testing.assert_allclose(facts.eigenvalues, real, atol=1e-12)
        else:
            assert facts.second == pytest.approx(modulus[1], abs=1e-7)
            assert facts.last is None


def test_one_worker_is_already_of_one_mind():
    facts = spectrum([[1.0]])
    assert (facts.gap, facts.rho, facts.mixing_time_rounds) == (1, 0, 0)


@pytest.mark.parametrize("name", ["ring", "complete", "star", "exponential"])
def test_the_mixing_time_is_the_first_round_that_is_close_enough(name):
    w = mixing_matrix(TOPOLOGIES[name](12))
    t, epsilon = spectrum(w).mixing_time_rounds, spectrum(w).epsilon
    apart = [np.linalg.norm(np.linalg.matrix_power(w.toarray(), k) - 1 / 12, 2) for k in (t - 1, t)]
    assert apart[1] <= epsilon * (1 + 1e-9) < apart[0]


def test_a_matrix_that_does_not_mix_has_gap_zero_and_no_mixing_time():
    facts = spectrum(np.eye(4))
    assert facts.gap == pytest.approx(0, abs=1e-15)
    assert facts.mixing_time_rounds is None


def test_rho_of_a_matrix_that_is_not_doubly_stochastic_may_exceed_one():
    facts = spectrum(mixing_matrix(topologies.star(16), "uniform"))
    assert facts.gap < 0
    assert facts.second < 1
    assert facts.mixing_time_rounds is None


def test_the_vector_of_ones_is_left_out_even_where_its_eigenvalue_is_not_the_largest():
    laplacian = nx.laplacian_matrix(topologies.path(3)).toarray()
    facts = spectrum(np.eye(3) + 0.5 * laplacian)
    assert (facts.second, facts.last) == pytest.approx((2.5, 1.5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (name, rule)
        for name in (
            "grid",
            "torus",
            "tree",
            "star",
            "random-regular",
            "watts-strogatz",
            "geometric",
            "ring-of-cliques",
        )
        for rule in ("metropolis", "best-constant", "lazy")
    ],
)
def test_sparse_algebra_above_the_dense_limit_agrees_with_dense_algebra(name, rule):
    w = mixing_matrix(TOPOLOGIES[name](1232), rule)
    facts = spectrum(w)
    values = np.linalg.eigvalsh(w.toarray())
    assert facts.eigenvalues is None
    assert (facts.second, facts.last) == pytest.approx((values[-2], values[0]), abs=1e-11)


@pytest.mark.parametrize("balanced", [True, False])
def test_directed_matrices_above_the_dense_limit_agree_with_dense_algebra(balanced):
    rng = np.random.default_rng(1)
    w = sparse.csr_array(sum(sparse.eye_array(1100).tocsr()[rng.permutation(1100)] for _ in range(4)) / 4)
    if not balanced:
        w = w @ mixing_matrix(topologies.star(1100), "lazy-uniform")
    facts = spectrum(w)
    assert facts.doubly_stochastic == balanced
    assert facts.second is None
    assert facts.rho == pytest.approx(dense_rho(w), abs=1e-9)


def test_all_eigenvalues_of_a_large_graph_are_refused_unless_it_is_circulant():
    with pytest.raises(
        ValueError, match="all eigenvalues of 1100 workers would need a dense matrix; use spectrum"
    ):
        eigenvalues(mixing_matrix(topologies.grid(1100)))
    n = 5000
    expected = np.sort(1 / 3 + 2 / 3 * np.cos(2 * np.pi * np.arange(n) / n))[::-1]
    np.testing.assert_allclose(eigenvalues(mixing_matrix(topologies.ring(n))), expected, atol=1e-12)


def test_a_matrix_that_only_looks_circulant_is_not_taken_for_one():
    w = mixing_matrix(topologies.ring(6)).toarray()
    w[[0, 1, 0, 1], [0, 1, 1, 0]] += [0.3, 0.3, -0.3, -0.3]
    assert spectral_gap(w) == pytest.approx(1 - np.linalg.norm(w - 1 / 6, 2), abs=1e-14)
    assert spectral_gap(w) != pytest.approx(gap("ring", 6), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ring", 2 / 3 * (1 - math.cos(2 * math.pi / 65536))),
        ("path", 2 / 3 * (1 - math.cos(math.pi / 65536))),
        ("torus", 2 / 5 * (1 - math.cos(2 * math.pi / 256))),
        ("hypercube", 2 / 17),
        ("exponential", 2 / 17),
    ],
)
def test_sixty_five_thousand_workers_have_the_gap_of_their_closed_form(name, expected):
    # 1 - rho cancels: rho is known to 1e-16 or so, hence the absolute part.
    assert gap(name, 65536) == pytest.approx(expected, rel=1e-9, abs=2e-15)


@pytest.mark.slow
def test_a_large_random_regular_graph_is_nearly_ramanujan_and_repeats_to_the_digit():
    w = mixing_matrix(topologies.random_regular(65536, degree=4, seed=0))
    facts = spectrum(w)
    assert facts.second == pytest.approx((1 + 2 * math.sqrt(3)) / 5, abs=2e-3)
    assert facts.last == pytest.approx((1 - 2 * math.sqrt(3)) / 5, abs=2e-3)
    assert spectrum(w).second == facts.second
