from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.problems.data.partitions import PARTITIONS, label_skew, partition
from topologies.streams import stream


def draw(labels: np.ndarray, workers: int, kind: str, seed: int = 0, **options: Any) -> list[np.ndarray]:
    return partition(labels, workers, kind, stream(seed, "partition"), **options)


def balanced(samples: int, classes: int = 10) -> np.ndarray:
    return stream(0, "labels").permutation(samples) % classes


@settings(deadline=None)
@given(
    kind=st.sampled_from(sorted(PARTITIONS)),
    samples=st.integers(1, 80),
    classes=st.integers(1, 12),
    fraction=st.floats(0, 1),
    alpha=st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
    seed=st.integers(0, 5),
)
def test_every_sample_has_one_owner_and_every_worker_a_sample(
    kind: str, samples: int, classes: int, fraction: float, alpha: float, seed: int
) -> None:
    workers = 1 + round(fraction * (samples - 1))
    labels = stream(seed, "labels").integers(classes, size=samples)
    parts = draw(labels, workers, kind, seed, alpha=alpha, shards_per_worker=max(1, samples // workers // 2))
    assert len(parts) == workers
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(samples))
    for part in parts:
        assert len(part) > 0
        assert part.dtype == np.int64
        assert np.all(np.diff(part) > 0)


@pytest.mark.parametrize("kind", sorted(PARTITIONS))
def test_a_partition_is_a_function_of_its_stream(kind: str) -> None:
    labels = balanced(500)
    first, again, other = (draw(labels, 7, kind, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = [len(part) for part in draw(balanced(103), 10, "iid")]
    assert sorted(sizes) == [10] * 7 + [11] * 3


def test_shards_give_each_worker_few_labels() -> None:
    labels = balanced(1000)
    parts = draw(labels, 10, "shards", shards_per_worker=2)
    assert {len(part) for part in parts} == {100}
    # 20 shards of 50 and 100 samples a class: every shard has one label
    assert all(len(np.unique(labels[part])) <= 2 for part in parts)


def test_dirichlet_shares_have_the_mean_and_variance_of_the_distribution() -> None:
    workers, alpha, per_class = 4, 0.5, 1000
    labels = np.repeat(np.arange(400), per_class)
    parts = draw(labels, workers, "dirichlet", alpha=alpha)
    share = np.stack([np.bincount(labels[part], minlength=400) for part in parts]) / per_class
    # Var p = (1/n)(1 - 1/n) / (n alpha + 1) = 0.0625 here; 400 classes: 5 standard errors of each
    variance = 0.25 * 0.75 / (workers * alpha + 1)
    assert share.mean(axis=1) == pytest.approx(0.25, abs=5 * np.sqrt(variance / 400))
    assert share.var(axis=1).mean() == pytest.approx(variance, rel=0.15)


def test_label_skew_grows_as_alpha_falls_and_iid_has_least() -> None:
    labels = balanced(5000)
    skews = [label_skew(draw(labels, 10, "dirichlet", alpha=alpha), labels) for alpha in (0.05, 0.5, 5, 500)]
    assert skews == sorted(skews, reverse=True)
    assert label_skew(draw(labels, 10, "iid"), labels) < 0.1
    assert label_skew(draw(labels, 10, "shards"), labels) > 0.75


def test_label_skew_is_the_total_variation_distance_worked_by_hand() -> None:
    labels = np.array([5, 5, 9, 9])
    assert label_skew([np.array([0, 1]), np.array([2, 3])], labels) == 0.5
    assert label_skew([np.array([0, 2]), np.array([1, 3])], labels) == 0
    # worker 0 sees (2/3, 1/3): distance 1/6; worker 1 sees (0, 1): distance 1/2
    assert label_skew([np.array([0, 1, 2]), np.array([3])], labels) == pytest.approx((1 / 6 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("workers", "kind", "options", "message"),
    [
        (11, "iid", {}, "11 workers .* 10 training samples"),
        (0, "iid", {}, "0 workers"),
        (2, "dirichlet", {"alpha": 0.0}, "alpha = 0.0"),
        (2, "dirichlet", {"alpha": float("nan")}, "alpha = nan"),
        (2, "dirichlet", {"alpha": float("inf")}, "alpha = inf"),
        (2, "shards", {"shards_per_worker": 0}, "shards_per_worker = 0"),
        (2, "shards", {"shards_per_worker": 6}, "need 12 samples, there are 10; use shards_per_worker = 5"),
        (2, "dirichlot", {}, "did you mean 'dirichlet'"),
    ],
)
def test_an_impossible_partition_is_refused(
    workers: int, kind: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        draw(balanced(10), workers, kind, **options)
