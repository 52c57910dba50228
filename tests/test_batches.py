from __future__ import annotations

import time

import numpy as np
import pytest

from decentral.errors import UserError
from decentral.problems.data.batches import EpochBatches


def order(batches: EpochBatches, rounds: int) -> np.ndarray:
    """The orders of all hosted workers over the first rounds, (h, rounds * B)."""
    drawn = np.stack([batches.at(t) for t in range(rounds)])
    return drawn.transpose(1, 0, 2).reshape(drawn.shape[1], -1)


@pytest.mark.parametrize("size", [1, 5, 64, 1000, 1024, 1500])
@pytest.mark.parametrize("batch", [1, 7, 32])
def test_every_sample_is_used_exactly_once_in_every_epoch(size: int, batch: int) -> None:
    epochs = 3
    drawn = order(EpochBatches([size, size], [0, 1], batch, seed=0), -(-epochs * size // batch))
    for row in drawn[:, : epochs * size].reshape(-1, size):
        assert np.array_equal(np.sort(row), np.arange(size))


def test_the_law_holds_far_from_the_first_round() -> None:
    size, batch = 64, 8
    batches = EpochBatches([size], [5], batch, seed=0)
    epoch = 10**9
    drawn = np.concatenate([batches.at(epoch * size // batch + t) for t in range(size // batch)], axis=1)
    assert np.array_equal(np.sort(drawn[0]), np.arange(size))


def test_a_round_can_be_drawn_again_in_any_order() -> None:
    sizes, workers = [30, 64, 700], [4, 5, 6]
    rounds = [0, 40_000, 3, 15_000, 7_000, 3, 0]
    batches = EpochBatches(sizes, workers, 8, seed=1)
    forwards = [batches.at(t) for t in rounds]
    for t, drawn in zip(rounds, forwards, strict=True):
        assert np.array_equal(EpochBatches(sizes, workers, 8, seed=1).at(t), drawn)


def test_a_worker_draws_the_same_batches_whoever_hosts_it() -> None:
    sizes = [10 + 3 * w for w in range(12)]
    whole = EpochBatches(sizes, range(12), 5, seed=2)
    for first, last in ((0, 1), (1, 7), (7, 12)):
        rank = EpochBatches(sizes[first:last], range(first, last), 5, seed=2)
        for t in (0, 1, 99, 1000, 30_000):
            assert np.array_equal(rank.at(t), whole.at(t)[first:last])


def test_a_worker_goes_through_its_samples_in_one_order_at_every_batch_size() -> None:
    reference = order(EpochBatches([50], [3], 1, seed=0), 600)
    for batch in (2, 8, 60):
        assert np.array_equal(order(EpochBatches([50], [3], batch, seed=0), 600 // batch), reference)


def test_workers_seeds_and_epochs_have_orders_of_their_own() -> None:
    one, two = order(EpochBatches([100, 100], [0, 1], 10, seed=0), 40)
    other = order(EpochBatches([100], [0], 10, seed=1), 40)[0]
    epochs = np.stack([*one.reshape(4, 100), *two.reshape(4, 100), *other.reshape(4, 100)])
    assert len(np.unique(epochs, axis=0)) == 12


def test_every_position_of_an_epoch_is_uniform() -> None:
    size, epochs = 8, 8000
    drawn = order(EpochBatches([size], [0], size, seed=0), epochs)[0].reshape(epochs, size)
    table = np.stack([np.bincount(column, minlength=size) for column in drawn.T])
    # chi-square with (8 - 1)^2 = 49 degrees of freedom, scaled by 8 / 7; mean 49, deviation 9.9
    chi2 = ((table - epochs / size) ** 2 / (epochs / size)).sum() * (size - 1) / size
    assert chi2 < 49 + 5 * 9.9


def test_a_batch_is_the_callers_to_change() -> None:
    batches = EpochBatches([20, 20], [0, 1], 4, seed=0)
    kept = batches.at(2).copy()
    batches.at(2)[:] = -1
    assert np.array_equal(batches.at(2), kept)
    assert kept.dtype == np.int64
    assert kept.shape == (2, 4)
    assert batches.at(2).flags.c_contiguous


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size = 0"):
        EpochBatches([3], [0], 0, seed=0)
    with pytest.raises(UserError, match="worker 7 has 0 samples"):
        EpochBatches([3, 0], [6, 7], 1, seed=0)
    with pytest.raises(ValueError, match="round -1"):
        EpochBatches([3], [0], 1, seed=0).at(-1)


def test_a_round_of_256_workers_costs_less_than_a_millisecond() -> None:
    batches = EpochBatches([64] * 256, range(256), 8, seed=0)
    start = time.process_time()
    for t in range(512):
        batches.at(t)
    assert (time.process_time() - start) / 512 < 1e-3
