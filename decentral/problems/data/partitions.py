"""Partitions: which worker owns which training sample, from even to heavily skewed labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from decentral.errors import UserError, nearest
from topologies.wording import shown

Array = np.ndarray[Any, Any]


def partition(
    labels: Array,
    workers: int,
    kind: str,
    stream: np.random.Generator,
    *,
    alpha: float = 0.5,
    shards_per_worker: int = 2,
) -> list[Array]:
    """Sorted, disjoint sample indices (int64) per worker; together all samples, no worker empty.

    ``labels``: (N,) integers. ``kind``: ``iid`` deals a random permutation, sizes differing by one at
    most; ``dirichlet`` shares each class out in proportions drawn from Dirichlet(alpha) over the
    workers (Hsu, Qi, Brown 2019, arXiv 1909.06335; small alpha, much skew); ``shards`` sorts by label,
    cuts workers * shards_per_worker runs of nearly equal length and deals them at random (McMahan et
    al. 2017, arXiv 1602.05629). Raises `UserError` for an unknown kind, more workers than samples,
    alpha not positive and finite, fewer than one shard per worker, more shards than samples.
    """
    labels = np.asarray(labels)
    if kind not in PARTITIONS:
        raise UserError(f"unknown partition {shown(kind)}; {nearest(kind, PARTITIONS)}")
    if not 1 <= workers <= len(labels):
        raise UserError(
            f"partition over {workers} workers needs from 1 to {len(labels)} of them: each must own one of "
            f"the {len(labels)} training samples at least"
        )
    if not (alpha > 0 and np.isfinite(alpha)):
        raise UserError(f"alpha = {alpha} must be positive and finite; 0.1 is heavy skew, 100 nearly iid")
    if shards_per_worker < 1:
        raise UserError(f"shards_per_worker = {shards_per_worker} must be at least 1")
    owner = PARTITIONS[kind](labels, workers, stream, alpha, shards_per_worker)
    return [np.flatnonzero(owner == worker) for worker in range(workers)]


def label_skew(parts: list[Array], labels: Array) -> float:
    """Mean over workers of the total-variation distance between local and global label distribution.

    ``parts``: sample indices per worker, none empty; ``labels``: (N,). Without unit, from 0 (every
    worker sees the global distribution) to below 1.
    """
    values, codes = np.unique(np.asarray(labels), return_inverse=True)
    everywhere = np.bincount(codes, minlength=len(values)) / len(codes)
    local = np.stack([np.bincount(codes[part], minlength=len(values)) / len(part) for part in parts])
    return float(np.abs(local - everywhere).sum(axis=1).mean() / 2)


def _iid(labels: Array, workers: int, stream: np.random.Generator, alpha: float, shards: int) -> Array:
    del alpha, shards
    return stream.permutation(len(labels)) % workers


def _dirichlet(labels: Array, workers: int, stream: np.random.Generator, alpha: float, shards: int) -> Array:
    del shards
    owner = np.empty(len(labels), np.int64)
    for value in np.unique(labels):
        samples = stream.permutation(np.flatnonzero(labels == value))
        share = np.cumsum(stream.dirichlet(np.full(workers, alpha)))[:-1]
        cuts = np.rint(share * len(samples)).astype(np.int64)
        owner[samples] = np.searchsorted(cuts, np.arange(len(samples)), side="right")
    return _feed_the_empty(owner, workers, stream)


def _feed_the_empty(owner: Array, workers: int, stream: np.random.Generator) -> Array:
    """Give each worker without a sample a random one of whoever then owns most (lowest worker on a tie)."""
    sizes = np.bincount(owner, minlength=workers)
    for worker in np.flatnonzero(sizes == 0):
        richest = int(sizes.argmax())
        owner[stream.choice(np.flatnonzero(owner == richest))] = worker
        sizes[richest] -= 1
        sizes[worker] = 1
    return owner


def _shards(labels: Array, workers: int, stream: np.random.Generator, alpha: float, shards: int) -> Array:
    del alpha
    total = workers * shards
    if total > len(labels):
        raise UserError(
            f"{workers} workers with {shards} shards each need {total} samples, there are {len(labels)}; "
            f"use shards_per_worker = {len(labels) // workers} or less"
        )
    owner_of_shard = stream.permutation(total) // shards
    owner = np.empty(len(labels), np.int64)
    for shard, samples in enumerate(np.array_split(np.argsort(labels, kind="stable"), total)):
        owner[samples] = owner_of_shard[shard]
    return owner


PARTITIONS: dict[str, Callable[[Array, int, np.random.Generator, float, int], Array]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "shards": _shards,
}
