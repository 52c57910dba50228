"""Schedules: rounds, periods, exact averaging, refusals."""

from __future__ import annotations

import numpy as np
import pytest

import topologies
from topologies import Schedule, constant, cyclic, mixing_matrix, one_peer_exponential, period_rho, product


@pytest.mark.parametrize("n", range(1, 41))
def test_one_peer_exponential_averages_exactly_if_and_only_if_n_is_a_power_of_two(n):
    mixed = product(one_peer_exponential(n))
    if n & (n - 1):
        assert abs(mixed - 1 / n).max() > 1e-3
        assert period_rho(one_peer_exponential(n)) > 1e-2
    else:
        np.testing.assert_array_equal(mixed, np.full((n, n), 1 / n))
        assert period_rho(one_peer_exponential(n)) < 1e-15


@pytest.mark.parametrize(("n", "expected"), [(6, 0.216506), (12, 0.209129)])
def test_one_peer_exponential_leaves_the_published_rest(n, expected):
    assert period_rho(one_peer_exponential(n)) == pytest.approx(expected, abs=6e-7)


@pytest.mark.parametrize("n", [2, 5, 6, 8, 12])
def test_one_peer_exponential_sends_half_to_one_peer_a_round_and_repeats(n):
    schedule = one_peer_exponential(n)
    assert schedule.n == n
    assert schedule.period == (n - 1).bit_length()
    for t in range(2 * schedule.period + 1):
        expected = np.zeros((n, n))
        for j in range(n):
            expected[j, j] = expected[(j + 2 ** (t % schedule.period)) % n, j] = 0.5
        np.testing.assert_array_equal(schedule.matrix(t).toarray(), expected)


def test_the_order_of_a_product_is_the_order_of_the_rounds():
    swap = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    pull = np.array([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]])
    np.testing.assert_array_equal(product(cyclic([swap, pull])), pull @ swap)
    assert (pull @ swap != swap @ pull).any()


def test_the_rest_of_a_period_is_the_norm_of_dense_algebra():
    matrices = [mixing_matrix(topologies.geometric(12, seed=seed)) for seed in range(3)]
    mixed = matrices[2] @ matrices[1] @ matrices[0]
    expected = np.linalg.svd(mixed.toarray() - 1 / 12, compute_uv=False)[0]
    assert period_rho(cyclic(matrices)) == pytest.approx(expected, abs=1e-13)
    n = 11
    mixed = product(one_peer_exponential(n))
    assert period_rho(one_peer_exponential(n)) == pytest.approx(np.linalg.norm(mixed - 1 / n, 2), abs=1e-14)


def test_a_constant_schedule_is_its_matrix():
    w = mixing_matrix(topologies.star(5))
    schedule = constant(w)
    assert (schedule.n, schedule.period) == (5, 1)
    assert (schedule.matrix(7) != w).nnz == 0
    assert period_rho(schedule) == pytest.approx(1 - topologies.spectral_gap(w), abs=1e-14)


def test_a_period_of_65536_workers_is_judged_without_a_dense_matrix():
    assert period_rho(one_peer_exponential(65536)) < 1e-15
    with pytest.raises(
        ValueError, match="schedule of 65536 workers is a dense matrix; use at most 4096 workers"
    ):
        product(one_peer_exponential(65536))


def test_rounds_that_are_connected_only_together_are_a_schedule():
    first = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]])
    assert 0 < period_rho(cyclic([first, second])) < 1
    with pytest.raises(ValueError, match="not connected: workers 0 and 2"):
        cyclic([first, first])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cyclic([]), "a schedule needs at least one mixing matrix (0 given)"),
        (lambda: cyclic([np.eye(2), np.eye(3)]), "the matrices of a schedule have [2, 3] workers"),
        (
            lambda: cyclic([[[0, 1], [1, 0]], np.ones((2, 2))]),
            "round 1 of the schedule: column 0 of the mixing matrix",
        ),
        (lambda: one_peer_exponential(0), "needs at least one worker (n = 0); use 1 or more"),
        (lambda: one_peer_exponential(4).matrix(-1), "rounds are counted from 0 (t = -1)"),
        (lambda: product(Schedule(2, None, lambda t: np.eye(2))), "without a period has no product over it"),
    ],
)
def test_a_schedule_that_breaks_a_rule_is_refused(call, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        call()
    assert message in str(refusal.value)
