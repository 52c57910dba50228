"""The noise scale of a run of rounds: running averages of what is estimated of single rounds, and their ratio."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from decentral.comm import Communicator
from decentral.network.compute import ComputeTime
from decentral.problems.objective import Objective
from decentral.rounds.gradient_noise import of_all_pairs, of_neighbours
from decentral.rounds.trials.messages import messages_a_round
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.rounds.growing_batch import GrowingBatch
from decentral.runs.sections.noise_scale import NoiseScale


class RunningNoise:
    """Of each measured round S and |G|^2 (:mod:`decentral.rounds.gradient_noise`), averaged with the same weights.

        average <- decay average + (1 - decay) value,      divided by 1 - decay^k after k values

    Of gradients as they are computed: without weight decay, before they are cut to a norm. Pairs are the edges of W in
    that round if the method gossips, else all pairs, so too where W is 11'/n. A round without edges is not measured.
    ``batch``: None where batches do not grow.
    """

    def __init__(self, settings: NoiseScale, run: RoundsRun) -> None:
        self.settings, self.gossips = settings, messages_a_round(run.algorithm).gossip > 0
        self.noise = self.square = self.weight = 0.0
        self.batch = GrowingBatch.of(settings, run)

    def before(self, t: int, objective: Objective) -> None:
        """Round t is about to begin: batches may grow."""
        if self.batch is not None:
            self.batch.follow(self.scale, t, objective)

    def seen(
        self, gradient: Iterable[tuple[slice, Tensor]], comm: Communicator, t: int, objective: Objective
    ) -> Iterable[tuple[slice, Tensor]]:
        """The gradient of round t as it came; measured if its turn has come."""
        if t % self.settings.every:
            return gradient
        blocks, now = list(gradient), comm.at(t)
        samples, before = objective.samples(t + 1), objective.samples(t)
        batch = 1.0 if samples is None or before is None else (samples - before) / comm.n
        found = (of_neighbours if self.gossips and not now.plan.exact else of_all_pairs)(blocks, now, batch)
        if found is not None:
            decay = self.settings.decay
            self.noise = decay * self.noise + (1 - decay) * found.noise
            self.square = decay * self.square + (1 - decay) * found.square
            self.weight = decay * self.weight + 1 - decay
        return blocks

    @property
    def scale(self) -> float:
        """S / |G|^2 in samples, of the averages; nan where |G|^2 is not found above 0."""
        return self.noise / self.square if self.square > 0 else math.nan

    def columns(self) -> dict[str, float]:
        """Columns of a record; nan before the first measurement."""
        noise, square = (
            value / self.weight if self.weight else math.nan for value in (self.noise, self.square)
        )
        found = {"gradient_noise_scale": self.scale, "gradient_noise": noise, "gradient_sq": square}
        return found if self.batch is None else {**found, "batch_size": self.batch.size()}

    def timed(self, compute: ComputeTime) -> ComputeTime:
        """The seconds of a worker's gradient, as its batches grow."""
        return compute if self.batch is None else self.batch.timed(compute)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "averages": [self.noise, self.square, self.weight],
            "grown": [] if self.batch is None else self.batch.grown,
        }

    def restore(self, kept: Mapping[str, Any], objective: Objective) -> None:
        """Go on from a :meth:`state`."""
        self.noise, self.square, self.weight = kept["averages"]
        if self.batch is not None:
            self.batch.restore(kept["grown"], objective)
