"""Actors: what a policy does in its environments, a function of the seed, the worker, the actor and the round.

An actor's environments are E rows (S + O + 2) of float64: state, observation, steps in the episode, episodes begun. So
they are in checkpoints, and whoever acts for a worker needs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topologies.streams import stream

if TYPE_CHECKING:
    from decentral.problems.reinforcement.agent import Policy
    from decentral.problems.reinforcement.environment import Environment
    from decentral.problems.reinforcement.settings import Settings

Floats = NDArray[np.float64]


class Acting:
    """The actors of all workers of a run; ``width``: numbers of a transition, (o, a, r, o', terminated)."""

    def __init__(self, settings: Settings, env: Environment, seed: int, dtype: torch.dtype) -> None:
        self.settings, self.env, self.seed, self.dtype = settings, env, seed, dtype
        self.row = env.states + env.observations + 2
        self.width = 2 * env.observations + env.actions + 2
        self._seen = slice(env.states, env.states + env.observations)

    def begun(self, worker: int) -> tuple[Floats, list[Tensor]]:
        """Environments (actors, E, row) after the warm-up, and each actor's transitions in it."""
        s = self.settings
        rows = np.zeros((s.actors, s.envs, self.row))
        warm = []
        for number, environments in enumerate(rows):
            for e, one in enumerate(environments):
                self._reset(one, worker, number, e)
            rng = stream(self.seed, "warm-up", worker, number)
            actions = rng.uniform(-1, 1, (s.warmup, s.envs, self.env.actions))
            warm.append(self._steps(environments, worker, number, list(actions), lambda _, action: action))
        return rows, warm

    def act(self, policy: Policy, environments: Floats, worker: int, number: int, t: int) -> Tensor:
        """The transitions (steps E, width) of actor ``number`` in round t; its environments (E, row) move on."""
        s = self.settings
        noise = stream(self.seed, "acting", worker, number, t).standard_normal(
            (s.steps, s.envs, self.env.actions)
        )

        def decide(seen: Floats, drawn: Tensor) -> Floats:
            action = policy.explore(torch.from_numpy(seen).to(self.dtype), drawn)
            return np.asarray(action.numpy(), np.float64)

        return self._steps(environments, worker, number, torch.from_numpy(noise).to(self.dtype), decide)

    def _steps(
        self, environments: Floats, worker: int, number: int, draws: Tensor | list[Floats],
        decide: Callable[..., Floats],
    ) -> Tensor:  # fmt: skip
        """A step for each draw, by the actions that ``decide(observations, draw)`` gives."""
        states = self.env.states
        found = np.empty((len(draws), len(environments), self.width))
        for new, draw in zip(found, draws, strict=True):
            seen = environments[:, self._seen].copy()
            action = decide(seen, draw)
            after = self.env.step(environments[:, :states], action)
            reward = (self.settings.reward_scale * after.reward)[:, None]
            parts = (seen, action, reward, after.observation, after.terminated[:, None])
            np.concatenate(parts, axis=1, out=new)
            environments[:, :states], environments[:, self._seen] = after.state, after.observation
            environments[:, -2] += 1
            for e in np.flatnonzero(after.over | (environments[:, -2] >= self.env.steps)):
                self._reset(environments[e], worker, number, int(e))
        return torch.from_numpy(found.reshape(-1, self.width)).to(self.dtype)

    def _reset(self, environment: Floats, worker: int, number: int, e: int) -> None:
        """Its next episode."""
        episode = int(environment[-1])
        state, seen = self.env.reset(stream(self.seed, "episode", worker, number, e, episode))
        environment[:] = np.concatenate([state, seen, [0, episode + 1]])

    def returns(self, policy: Policy) -> Floats:
        """The undiscounted sums of rewards of as many episodes as are evaluated, the same in all records."""
        count = self.settings.episodes
        begun = [self.env.reset(stream(self.seed, "evaluation", e)) for e in range(count)]
        state, seen = (np.stack(part) for part in zip(*begun, strict=True))
        total, left = np.zeros(count), np.arange(count)
        for _ in range(self.env.steps):
            action = policy.mode(torch.from_numpy(seen).to(self.dtype)).numpy()
            after = self.env.step(state, np.asarray(action, np.float64))
            total[left] += after.reward
            on = ~after.over
            left, state, seen = left[on], after.state[on], after.observation[on]
            if not len(left):
                break
        return total
