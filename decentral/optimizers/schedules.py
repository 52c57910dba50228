"""Learning-rate schedules: the factor on ``train.lr`` in round t, after a linear warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from topologies.settings import plain_settings


class Schedule(Protocol):
    """A frozen value that gives the learning rate of each round."""

    def lr(self, t: int, rounds: int, base: float) -> float:
        """The learning rate of round t = 0, 1, ..., rounds - 1."""


def _warm(t: int, warmup_rounds: int) -> float:
    """(t + 1) / (warmup_rounds + 1) while t < warmup_rounds, then 1: never 0, so nothing divides by it."""
    return min(1.0, (t + 1) / (warmup_rounds + 1))


def _check_warmup(warmup_rounds: int) -> None:
    if warmup_rounds < 0:
        raise ValueError(f"warmup_rounds = {warmup_rounds} must not be negative; 0 is none")


def _check_final(final: float) -> None:
    if not 0 <= final <= 1:
        raise ValueError(f"final = {final} must be in [0, 1]: the last lr as a fraction of the first")


@dataclass(frozen=True)
class Constant:
    """lr = base, after the warm-up."""

    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        plain_settings(self)
        _check_warmup(self.warmup_rounds)

    def lr(self, t: int, rounds: int, base: float) -> float:
        """See :class:`Schedule`."""
        del rounds
        return base * _warm(t, self.warmup_rounds)


@dataclass(frozen=True)
class Step:
    """lr = base * factor^(milestones passed); milestones are fractions of all rounds, as (0.5, 0.75)."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        plain_settings(self)
        _check_warmup(self.warmup_rounds)
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if not all(0 < m < 1 for m in self.milestones):
            raise ValueError(
                f"milestones = {list(self.milestones)} must be fractions of the rounds in (0, 1)"
            )
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor = {self.factor} must be positive and finite; 0.1 is usual")

    def lr(self, t: int, rounds: int, base: float) -> float:
        """See :class:`Schedule`."""
        passed = sum(t >= m * rounds for m in self.milestones)
        return base * float(self.factor**passed) * _warm(t, self.warmup_rounds)


@dataclass(frozen=True)
class Cosine:
    """lr = base * (final + (1 - final) (1 + cos(pi t / rounds)) / 2), after the warm-up."""

    final: float = 0.0
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        plain_settings(self)
        _check_warmup(self.warmup_rounds)
        _check_final(self.final)

    def lr(self, t: int, rounds: int, base: float) -> float:
        """See :class:`Schedule`."""
        wave = (1 + math.cos(math.pi * t / rounds)) / 2
        return base * (self.final + (1 - self.final) * wave) * _warm(t, self.warmup_rounds)


@dataclass(frozen=True)
class Polynomial:
    """lr = base * (final + (1 - final) (1 - t / rounds)^power), after the warm-up."""

    power: float = 2.0
    final: float = 0.0
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        plain_settings(self)
        _check_warmup(self.warmup_rounds)
        if not 0 < self.power < math.inf:
            raise ValueError(f"power = {self.power} must be positive and finite; 1 is a line, 2 is usual")
        _check_final(self.final)

    def lr(self, t: int, rounds: int, base: float) -> float:
        """See :class:`Schedule`."""
        left = float((1 - t / rounds) ** self.power)
        return base * (self.final + (1 - self.final) * left) * _warm(t, self.warmup_rounds)
