"""Schedules that scale the learning rate with the batch: what was tuned at a small batch is used at a large one.

    k = B / base_batch,    B the samples of all workers in a step

Both warm up over epochs, and then decay by another schedule, whose fractions are of the run: unchanged in epochs, where
runs have the same number of them. Epochs are those of the columns ``epoch`` and ``samples``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from decentral.optimizers.decays import decay_of, table_of
from decentral.optimizers.of_run import Facts, OfRun
from decentral.optimizers.schedules import Schedule
from topologies.settings import finite_settings, plain_settings


@dataclass(frozen=True)
class Ramped:
    """lr = decay(t; base scale) ramp(t): a linear ramp over ``warmup`` rounds, which need not be whole.

    ``start`` 0: ramp = (t + 1) / (warmup + 1), which is never 0, as warm-ups of other schedules are; else
    ramp = start + (1 - start) t / warmup. Either is 1 from t = warmup on.
    """

    decay: Schedule
    scale: float
    warmup: float
    start: float = 0.0

    def lr(self, t: int, rounds: int, base: float) -> float:
        """See :class:`Schedule`."""
        return self.decay.lr(t, rounds, base * self.scale) * self._ramp(t)

    def _ramp(self, t: int) -> float:
        if t >= self.warmup:
            return 1.0
        if not self.start:
            return (t + 1) / (self.warmup + 1)
        return self.start + (1 - self.start) * t / self.warmup


@dataclass(frozen=True)
class _Scaled(OfRun):
    """``base_batch``: the batch that ``train.lr`` was tuned at. ``decay``: a name, or a table with it and its keys."""

    base_batch: int
    decay: str | dict[str, Any] = field(default="constant", kw_only=True)

    def _check(self, key: str, epochs: float) -> None:
        plain_settings(self)
        if self.base_batch < 1:
            raise ValueError(f"base_batch = {self.base_batch} must be at least 1: samples of all workers")
        if epochs < 0:
            raise ValueError(f"{key} = {epochs} must not be negative; 0 is no warm-up")
        finite_settings(self)
        decay = decay_of(self.decay)
        if getattr(decay, "warmup_rounds", 0):
            raise ValueError(f"decay.warmup_rounds has no meaning beside {key}; remove it")
        object.__setattr__(self, "decay", table_of(decay))

    def _ramped(self, facts: Facts, scale: float, epochs: Fraction, start: float = 0.0) -> Ramped:
        """Over so many epochs. Raises ValueError where they are no shorter than the run."""
        assert facts.epoch_rounds is not None
        warmup = epochs * facts.epoch_rounds
        if warmup and warmup >= facts.rounds:
            raise ValueError(
                f"a warm-up of {float(epochs):g} epochs ({float(warmup):g} rounds of {facts.batch} samples) does not "
                f"fit into the run's {float(facts.rounds / facts.epoch_rounds):g} epochs (train.rounds = "
                f"{facts.rounds}); train longer, or use a smaller batch or a shorter warm-up"
            )
        return Ramped(decay_of(self.decay), scale, float(warmup), start)

    def _batch(self, facts: Facts) -> int:
        if facts.batch is None or facts.epoch_rounds is None:
            raise ValueError(
                f"{type(self).__name__} goes by batches and epochs, and {facts.missing}; use another schedule"
            )
        return facts.batch


@dataclass(frozen=True)
class LinearScaling(_Scaled):
    """lr = k base for k base batches in a step, after a gradual warm-up from base, then a decay.

        lr = decay(t; k base) ramp(t),    ramp = 1/k + (1 - 1/k) t / w,    w = warmup_epochs in rounds

    For k <= 1 there is no warm-up. ``decay``: the name of a schedule that goes by the round, or a table with its keys.
    Reference: arXiv 1706.02677.
    """

    warmup_epochs: float = 5.0

    def __post_init__(self) -> None:
        self._check("warmup_epochs", self.warmup_epochs)

    def fitted(self, facts: Facts) -> Ramped:
        """See :class:`OfRun`."""
        k = self._batch(facts) / self.base_batch
        epochs = Fraction(self.warmup_epochs) if k > 1 else Fraction(0)
        return self._ramped(facts, k, epochs, min(1.0, 1 / k))


@dataclass(frozen=True)
class LEGW(_Scaled):
    """Linear-epoch gradual warm-up: lr = sqrt(k) base, warmed up over ``base_warmup_epochs`` k epochs, then a decay.

        lr = decay(t; sqrt(k) base) min(1, (t + 1) / (w + 1)),    w = base_warmup_epochs N / base_batch rounds

    for N samples an epoch: the rounds of the warm-up are the same for all k, and lr grows by sqrt(k) as much in each.
    ``train.lr`` and ``base_warmup_epochs`` are those tuned at ``base_batch``. ``decay``: the name of a schedule that
    goes by the round, or a table with its keys. Reference: arXiv 1901.08256.
    """

    base_warmup_epochs: float

    def __post_init__(self) -> None:
        self._check("base_warmup_epochs", self.base_warmup_epochs)

    def fitted(self, facts: Facts) -> Ramped:
        """See :class:`OfRun`."""
        k = Fraction(self._batch(facts), self.base_batch)
        return self._ramped(facts, math.sqrt(k), Fraction(self.base_warmup_epochs) * k)
