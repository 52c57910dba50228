"""What an environment is asked: functions of its state, so that an episode goes on wherever its numbers are."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from decentral.errors import UserError
from topologies.wording import shown

Floats = NDArray[np.float64]
GYMNASIUM = "gymnasium:"


class Step(NamedTuple):
    """After a step of E environments: states (E, S), observations (E, O), rewards (E,), and of each two truths (E,).

    ``terminated``: nothing comes after it, so its value is 0. ``over``: so, or the environment goes on no further.
    """

    state: Floats
    observation: Floats
    reward: Floats
    terminated: NDArray[np.bool_]
    over: NDArray[np.bool_]


class Environment(Protocol):
    """A family of alike environments without a state of its own; numbers are float64.

    ``states``, ``observations``, ``actions``: how many numbers S, O, A each has. ``steps``: of an episode at the most.
    """

    states: int
    observations: int
    actions: int
    steps: int

    def reset(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """A first state (S,) and its observation (O,)."""

    def step(self, state: Floats, action: Floats) -> Step:
        """From states (E, S) by actions (E, A), each from -1 to 1."""


def refuse_environment(env: str, why: str) -> UserError:
    """The error of an environment that cannot be had."""
    return UserError(f"problem.env = {shown(env)}: {why}")
