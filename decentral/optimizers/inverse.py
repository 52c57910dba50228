"""The learning rate that falls as one over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from topologies.settings import plain_settings


@dataclass(frozen=True)
class Inverse:
    """lr = base offset / (offset + t).

    Of the subgradient method for a strongly convex objective: with base = 1 / (decay offset) it is 1 / (decay (t +
    offset)), the step of Pegasos (Shalev-Shwartz et al. 2007), here without its projection.
    """

    offset: float = 100.0

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 0 < self.offset < math.inf:
            raise ValueError(f"offset = {self.offset} must be positive and finite; 100 is usual")

    def lr(self, t: int, rounds: int, base: float) -> float:
        """See :class:`decentral.optimizers.schedules.Schedule`."""
        del rounds
        return base * self.offset / (self.offset + t)
