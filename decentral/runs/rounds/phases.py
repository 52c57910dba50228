"""SWAP in a run of rounds (arXiv 2001.02312): together, then each worker alone, then their average; ``[phases]``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import torch

from decentral.algorithms.traits import Method
from decentral.network.compute import Slowed
from decentral.rounds.alone import Alone
from decentral.runs.computing import compute_time
from decentral.runs.journal import Outcome
from decentral.runs.metrics import record_interval, traffic
from decentral.runs.place import place_of
from decentral.runs.rescaling import rescaling_of, sparing
from decentral.runs.rounds.config import BY_PHASE, REPLICAS_ACCURACY
from decentral.runs.rounds.training import Training
from decentral.runs.sections.phases import Phases

_FORWARD = 1 / 3
"""Of the time of a gradient: what a pass without one costs."""


class PhasedTraining(Training):
    """A run of rounds in three phases.

    ``phase``: 1, 2 or 3. ``since``: rounds of the first phase. ``sent``: bytes that a worker had sent, on the average,
    when each phase was over.
    """

    phase, since = 1, 0
    sent: tuple[float, ...] = ()

    @property
    def phases(self) -> Phases:
        """What the file says of them."""
        assert self.config.phases is not None
        return self.config.phases

    @property
    def unfinished(self) -> bool:
        """See :class:`Training`: until all is averaged."""
        return self.phase < 3

    def _take_up(self, kept: Mapping[str, Any]) -> None:
        self.phase, self.since, sent = kept["phases"]
        self.sent = tuple(sent)
        if self.phase == 2:
            self._separate()
        super()._take_up(kept)

    def _marks(self) -> dict[str, Any]:
        return {**super()._marks(), "phases": [self.phase, self.since, list(self.sent)]}

    def _record(self) -> str:
        trouble = super()._record()
        if not trouble and self.phase == 1 and self._is_reached():
            if self.phases.average_first:
                self._average()
            self._close()
            self.phase, self.since = 2, self.t
            self._separate()
        return trouble

    def _is_reached(self) -> bool:
        """Whether the first phase ends with this record: the same on all ranks, by what the first has measured."""
        until, row = self.phases.until_train_accuracy, self.journal.row
        if self.t == self.end or until is None or self.t == 0:
            return self.t == self.end
        return self.world.from_root(lambda: bool(row["train_accuracy"] >= until))

    def _separate(self) -> None:
        """From here on workers are alone."""
        replicas, train = self.phases.replicas, self.config.train
        self.end = self.since + replicas.rounds
        self.together = self.objective
        self.objective = self.objective.redrawn(replicas.batch_size, replicas.data == "all")
        cost = ceil(self.objective.record_cost_rounds())
        self.record_rounds = record_interval(replace(train, rounds=replicas.rounds), cost)
        self.rescaling = rescaling_of(self.phases.rule, self.objective)
        spared = sparing(self.phases.rule, self.rescaling, train.weight_decay)
        rule = (spared or self.phases.rule).decayed(train.weight_decay)
        alone: Method[Any] = Alone(rule, self.objective.layout)
        self.method, self.weight_decay, self.whole = alone, 0.0, False
        self.state = alone.init(self.x, self.comm)
        place = replace(place_of(self.config, range(1), torch.device("cpu")), batch_size=replicas.batch_size)
        self.compute = self.world.from_root(
            lambda: compute_time(self.config.network, self.config.problem, place)
        )
        self.simulated.computes(self.compute)
        schedule, since = self.phases.schedule, self.since
        self.rate.told(lambda t: schedule.lr(t - since, replicas.rounds, replicas.lr))

    def _seen(self) -> tuple[int | None, float | None]:
        if self.phase == 1:
            return super()._seen()
        alone = min(self.t, self.end) - self.since
        samples, more = self.together.samples(self.since), self.objective.samples(alone)
        epoch, passes = self.together.epoch(self.since), self.objective.epoch(alone)
        if samples is None or more is None or epoch is None or passes is None:
            return None, None
        return samples + more, epoch + passes

    def _more(self) -> dict[str, float]:
        return {"phase": self.phase, **super()._more()}

    def _end(self) -> Outcome:
        """The third phase, and the end of the run. The pass for statistics may be long, so a checkpoint comes first."""
        if self.config.train.checkpoint_every != "never":
            self._keep()
        self._close()
        before = self.journal.row.get("test_accuracy_worker_mean")
        self._unite()
        if trouble := self._record():
            return self.journal.ended("diverged", trouble)
        self._close()
        self.accuracy = {} if before is None else {REPLICAS_ACCURACY: before}
        return super()._end()

    def _unite(self) -> None:
        """One round: the average, and its statistics. On the clock a forward pass is a third of a gradient."""
        self.phase = 3
        self._clock(0.0)
        self._average()
        self.simulated.note()
        began = time.perf_counter()
        batches = self.objective.renew_statistics(self.x, self.phases.replicas.batch_size)
        self.wall_s += time.perf_counter() - began
        if batches:
            self._clock(batches * _FORWARD)
            self.simulated.note()
        self.t += 1

    def _clock(self, gradients: float) -> None:
        """The next round on the clock takes as long as so many gradients."""
        self.simulated.computes(Slowed(self.compute, tuple(range(self.comm.n)), gradients))

    def _average(self) -> None:
        """x <- the mean of all workers' models, by an all-reduce, whole where links compress."""
        began = time.perf_counter()
        links, self.comm.links = self.comm.links, None
        self.x.copy_(self.comm.mean(self.x))
        self.comm.links = links
        self.wall_s += time.perf_counter() - began

    def _close(self) -> None:
        """A phase is over. Every rank calls it."""
        self.sent += (float(traffic(self.comm).sent_bytes.mean()),)

    def _final(self) -> dict[str, Any]:
        begun = (0.0, *self.sent)
        by_phase = {name: b - a for name, a, b in zip(BY_PHASE, begun, self.sent, strict=False)}
        return super()._final() | by_phase | self.accuracy
