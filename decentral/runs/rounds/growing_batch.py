"""Batches that follow the noise scale: they grow as gradients become noisier, up to a bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from decentral.network.compute import ComputeTime
from decentral.problems.model_objective import ModelObjective
from decentral.problems.objective import Objective
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.sections.network import OfProblem
from decentral.runs.sections.noise_scale import NoiseScale


class GrowingBatch:
    """A worker's batch, which all n have alike: before every ``grow_every``-th round

        b <- max(b, min(most_batch, floor(sqrt(n b_0 scale) / n)))

    so that the n b samples of a round follow the noise scale: sqrt(r scale), the adaptive batch of arXiv:1812.06162,
    with those of the first round for r. The root matters: at one learning rate the noise scale grows like the batch, so
    that a batch in proportion to it would run away to its bound. ``grown``: [round, samples] of each change, the first
    of round 0. ``of_batch``: whether the clock's seconds of a gradient are those of a batch.
    """

    def __init__(self, first: int, most: int, every: int, workers: int, of_batch: bool) -> None:
        self.most, self.every, self.workers, self.of_batch = most, every, workers, of_batch
        self.grown = [[0, first]]

    @classmethod
    def of(cls, settings: NoiseScale, run: RoundsRun) -> GrowingBatch | None:
        """None where batches do not grow."""
        first = run.train.batch_size
        if settings.most_batch is None or settings.grow_every is None or first == "full":
            return None
        of_batch = isinstance(run.network.compute, OfProblem)
        return cls(first, settings.most_batch, settings.grow_every, run.workers, of_batch)

    def follow(self, scale: float, t: int, objective: Objective) -> None:
        """Before round t: let the objective's batches grow if they are too small for the noise scale."""
        if t % self.every or not math.isfinite(scale):
            return
        size = min(self.most, int(math.sqrt(self.size(0) * scale / self.workers)))
        if size > self.size():
            self._grow(t, size, objective)

    def _grow(self, t: int, size: int, objective: Objective) -> None:
        self.grown.append([t, size])
        cast(ModelObjective, objective).grow(size, t)

    def size(self, t: float = math.inf) -> int:
        """Samples of a worker in round t, or after the last change."""
        return next(size for since, size in reversed(self.grown) if since <= t)

    def timed(self, compute: ComputeTime) -> ComputeTime:
        """The seconds of a worker's gradient, where they are known for the first batch, as batches grow."""
        return _Longer(compute, self) if self.of_batch else compute

    def restore(self, grown: Sequence[Sequence[int]], objective: Objective) -> None:
        """Go on after these changes."""
        for t, size in grown[1:]:
            self._grow(t, size, objective)


@dataclass(frozen=True)
class _Longer:
    """The times of ``base``, in the proportion of a round's batch to the first one."""

    base: ComputeTime
    batch: GrowingBatch

    def check(self, n: int) -> None:
        """See :class:`ComputeTime`."""
        self.base.check(n)

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """See :class:`ComputeTime`."""
        return self.base.draw(t, workers, seed) * (self.batch.size(t) / self.batch.size(0))
