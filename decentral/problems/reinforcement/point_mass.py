"""A point mass on a plane, to be brought to rest in the middle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from decentral.problems.reinforcement.environment import Floats, Step

PUSH, DRAG, DT_S, BORDER = 2.0, 0.5, 0.1, 2.0


@dataclass(frozen=True)
class PointMass:
    """State and observation (p, v), each in the plane, pushed by a in [-1, 1]^2.

        v <- v + (2 a - v / 2) dt,      p <- p + v dt,      reward = exp(-|p|^2),      dt = 0.1 s

    It begins at rest with |p_i| <= 1.5, and terminates where |p_i| > 2: rewards are positive, so leaving costs.
    """

    states: ClassVar[int] = 4
    observations: ClassVar[int] = 4
    actions: ClassVar[int] = 2

    steps: int = 100

    def reset(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """See :class:`Environment`."""
        state = np.concatenate([rng.uniform(-1.5, 1.5, 2), np.zeros(2)])
        return state, state

    def step(self, state: Floats, action: Floats) -> Step:
        """See :class:`Environment`."""
        p, v = state[:, :2], state[:, 2:]
        v = v + (PUSH * np.clip(action, -1, 1) - DRAG * v) * DT_S
        p = p + v * DT_S
        after = np.concatenate([p, v], axis=1)
        out = np.abs(p).max(axis=1) > BORDER
        return Step(after, after, np.exp(-(p**2).sum(axis=1)), out, out)
