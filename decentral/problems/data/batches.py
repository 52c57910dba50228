"""Batches: which of its own samples each worker looks at in a round, as a pure function of the round.

A worker's endless order is the concatenation of epoch permutations. Those are drawn from named
streams, so any rank draws any worker's batch of any round again, and there is no state to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decentral.errors import UserError
from topologies.streams import stream

Array = np.ndarray[Any, Any]

BLOCK = 1024
"""Samples drawn from one generator at least: small shards draw several epochs at once (part of the law)."""

WINDOW = 1 << 18
"""Entries of the window of rounds built at a time, 2 MiB: a cache, no effect on the numbers."""


class EpochBatches:
    """Batches of ``batch_size`` positions for the hosted workers, without replacement within an epoch.

    ``sizes``: samples in each hosted worker's shard; ``workers``: their global ids, same length h.
    Round r of a worker takes entries r B .. r B + B - 1 of its endless order, until :meth:`grow` changes B; a batch may
    straddle epochs (and repeats a sample if it is larger than the shard). The permutation of epoch e depends
    on (seed, "data", worker, e) and the shard's size only: row e mod E of the stream
    (seed, "data", worker, e // E), where E = max(1, 1024 // size) epochs share one generator.
    Raises `UserError` for a batch size or a shard below one.
    """

    def __init__(self, sizes: Sequence[int], workers: Sequence[int], batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size} must be at least 1")
        self._shards = [(int(worker), int(size)) for worker, size in zip(workers, sizes, strict=True)]
        for worker, size in self._shards:
            if size < 1:
                raise UserError(f"worker {worker} has {size} samples and needs at least 1; use fewer workers")
        self._seed, self._since, self._before = int(seed), 0, 0
        self._begin(int(batch_size))
        self._blocks: dict[int, tuple[int, Array]] = {}

    def _begin(self, batch_size: int) -> None:
        """Rounds from ``_since`` on have batches of this size, after the first ``_before`` entries."""
        self._batch = batch_size
        self._rounds = max(1, WINDOW // max(1, len(self._shards) * batch_size))
        self._window_index, self._window = -1, np.empty((0, 0, 0), np.int64)

    def grow(self, batch_size: int, round: int) -> None:
        """From ``round`` on batches of this size, which go on in each worker's order where earlier rounds end."""
        self._before, self._since = self.drawn(round), round
        self._begin(batch_size)

    def drawn(self, rounds: int) -> int:
        """Entries of a worker's order that the first ``rounds`` rounds take; not of rounds before the last growth."""
        return self._before + (rounds - self._since) * self._batch

    def at(self, round: int) -> Array:
        """Positions (h, B), int64, in each hosted worker's own shard, for ``round`` = 0, 1, 2, ..."""
        if round < self._since:
            raise ValueError(
                f"round {round} is negative, or before batches grew; rounds count from {self._since}"
            )
        index, row = divmod(int(round) - self._since, self._rounds)
        if index != self._window_index:
            self._window, self._window_index = self._draw(index), index
        return np.array(self._window[row])

    def alone(self, row: int) -> EpochBatches:
        """Those of hosted worker ``row`` only, (1, B); its window is its part of this one."""
        worker, size = self._shards[row]
        one = EpochBatches([size], [worker], self._batch, self._seed)
        one._rounds = self._rounds
        return one

    def _draw(self, index: int) -> Array:
        """The index-th R rounds of this batch size of every hosted worker, (R, h, B)."""
        window = np.empty((self._rounds, len(self._shards), self._batch), np.int64)
        length = self._rounds * self._batch
        for i, (worker, size) in enumerate(self._shards):
            order = self._order(worker, size, self._before + index * length, length)
            window[:, i] = order.reshape(self._rounds, self._batch)
        return window

    def _order(self, worker: int, size: int, start: int, length: int) -> Array:
        """Entries start .. start + length - 1 of the worker's endless order."""
        epochs = max(1, BLOCK // size)
        span = epochs * size
        first, last = start // span, (start + length - 1) // span
        blocks = [self._block(worker, size, epochs, b) for b in range(first, last + 1)]
        return np.concatenate(blocks)[start - first * span :][:length]

    def _block(self, worker: int, size: int, epochs: int, block: int) -> Array:
        """``epochs`` permutations in a row, flat; the newest of each worker is kept."""
        kept = self._blocks.get(worker)
        if kept is None or kept[0] != block:
            rows = np.tile(np.arange(size), (epochs, 1))
            drawn = stream(self._seed, "data", worker, block).permuted(rows, axis=1)
            kept = self._blocks[worker] = (block, drawn.ravel())
        return kept[1]
