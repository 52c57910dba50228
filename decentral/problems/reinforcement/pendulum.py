"""A pendulum to be swung up, with the equations of gymnasium's Pendulum-v1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from decentral.problems.reinforcement.environment import Floats, Step

GRAVITY, MASS, LENGTH, DT_S, FASTEST, STRONGEST = 10.0, 1.0, 1.0, 0.05, 8.0, 2.0


@dataclass(frozen=True)
class Pendulum:
    """State (theta, omega), theta = 0 upright; torque u = 2 a; observation (cos theta, sin theta, omega).

        reward = -(theta^2 + 0.1 omega^2 + 0.001 u^2),      theta taken to [-pi, pi)
        omega <- clip(omega + (3 g / (2 l) sin theta + 3 u / (m l^2)) dt, -8, 8),    theta <- theta + omega dt

    with g = 10, m = l = 1, dt = 0.05 s. It begins at any angle with |omega| <= 1, and never terminates.
    """

    states: ClassVar[int] = 2
    observations: ClassVar[int] = 3
    actions: ClassVar[int] = 1

    steps: int = 200

    def reset(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """See :class:`Environment`."""
        state = rng.uniform([-np.pi, -1.0], [np.pi, 1.0])
        return state, _seen(state)

    def step(self, state: Floats, action: Floats) -> Step:
        """See :class:`Environment`."""
        theta, omega = state.T
        u = STRONGEST * np.clip(action[:, 0], -1, 1)
        upright = (theta + np.pi) % (2 * np.pi) - np.pi
        reward = -(upright**2 + 0.1 * omega**2 + 0.001 * u**2)
        faster = 3 * GRAVITY / (2 * LENGTH) * np.sin(theta) + 3 * u / (MASS * LENGTH**2)
        omega = np.clip(omega + faster * DT_S, -FASTEST, FASTEST)
        after = np.stack([theta + omega * DT_S, omega], axis=1)
        never = np.zeros(len(after), bool)
        return Step(after, _seen(after), reward, never, never)


def _seen(state: Floats) -> Floats:
    theta, omega = state[..., 0], state[..., 1]
    return np.stack([np.cos(theta), np.sin(theta), omega], axis=-1)
