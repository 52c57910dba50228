"""An environment of the optional package gymnasium, as a function of its state.

Its hidden state is a function of the seed of its episode and the actions since, so these are the state here: an episode
that is at hand goes on, and any other, of a checkpoint say, is played again from its seed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from decentral.problems.reinforcement.environment import GYMNASIUM, Floats, Step, refuse_environment

_LIVE = 512
"""Episodes that are kept at hand."""


class GymnasiumEnvironment:
    """``gymnasium.make(name)``; actions of -1 to 1 are taken to the bounds of its own. State (seed, k, a_1 .. a_k, 0).

    ``steps``: of an episode, by default the environment's own limit. Raises UserError where gymnasium is not there,
    knows no such name, or has other spaces than boxes of one dimension, with bounds for actions.
    """

    def __init__(self, name: str, steps: int | None) -> None:
        self.name = GYMNASIUM + name
        try:
            import gymnasium
        except ImportError:
            raise refuse_environment(
                self.name,
                "gymnasium is not installed; pip install 'decentral[gymnasium]', or use \"pendulum\"",
            ) from None
        self._make: Callable[[], Any] = lambda: gymnasium.make(name)
        try:
            first = self._make()
        except Exception as error:  # of a name, a version, a package that it needs
            said = (str(error).splitlines() or [""])[0]
            raise refuse_environment(
                self.name,
                f"gymnasium cannot make it ({type(error).__name__}: {said}); use a name that it has",
            ) from None
        self._live: OrderedDict[bytes, tuple[Any, Floats]] = OrderedDict()
        self._idle: list[Any] = [first]
        self._refuse_spaces(first, gymnasium.spaces.Box)
        low, high = first.action_space.low, first.action_space.high
        self.low, self.span = np.float64(low), np.float64(high) - np.float64(low)
        self.kind = first.action_space.dtype
        self.observations, self.actions = first.observation_space.shape[0], first.action_space.shape[0]
        own = getattr(first.spec, "max_episode_steps", None)
        self.steps = steps or own or 0
        if not 0 < self.steps <= (own or self.steps):
            rule = (
                f"its episodes end after {own} steps; set at most these"
                if own
                else "it has no limit of its own"
            )
            raise refuse_environment(self.name, f"{rule}: set problem.episode_steps")
        self.states = 2 + self.steps * self.actions

    def _refuse_spaces(self, first: Any, box: type) -> None:
        for what, space in (("actions", first.action_space), ("observations", first.observation_space)):
            if not isinstance(space, box) or len(space.shape) != 1:  # type: ignore[attr-defined]
                raise refuse_environment(
                    self.name,
                    f"its {what} are {space}, and must be a Box of one dimension; use another environment",
                )
        if not (np.isfinite(first.action_space.low).all() and np.isfinite(first.action_space.high).all()):
            raise refuse_environment(
                self.name, "its actions have no bounds; use an environment whose actions have"
            )

    def reset(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """See :class:`Environment`."""
        state = np.zeros(self.states)
        state[0] = rng.integers(2**31)
        return state, self._begun(state)

    def step(self, state: Floats, action: Floats) -> Step:
        """See :class:`Environment`."""
        return Step(*map(np.array, zip(*map(self._step, state, action), strict=True)))

    def _step(self, state: Floats, action: Floats) -> tuple[Floats, Floats, float, bool, bool]:
        env, k = self._at_hand(state), int(state[1])
        observation, reward, terminated, truncated, _ = env.step(self._own(action))
        after, seen = state.copy(), np.asarray(observation, np.float64)
        after[1], after[2 + k * self.actions : 2 + (k + 1) * self.actions] = k + 1, action
        over = bool(terminated or truncated or k + 1 >= self.steps)
        if over:
            self._idle.append(env)
        else:
            self._keep(after, env, seen)
        return after, seen, float(reward), bool(terminated), over

    def _own(self, action: Floats) -> Any:
        return (self.low + (np.clip(action, -1, 1) + 1) / 2 * self.span).astype(self.kind)

    def _keep(self, state: Floats, env: Any, seen: Floats) -> None:
        self._live[state.tobytes()] = env, seen
        if len(self._live) > _LIVE:
            self._idle.append(self._live.popitem(last=False)[1][0])

    def _begun(self, state: Floats) -> Floats:
        """Begin the episode of its seed; the first observation."""
        env = self._idle.pop() if self._idle else self._make()
        observation, _ = env.reset(seed=int(state[0]))
        seen = np.asarray(observation, np.float64)
        first = np.zeros(self.states)
        first[0] = state[0]
        self._keep(first, env, seen)
        return seen

    def _at_hand(self, state: Floats) -> Any:
        """The environment in this state: kept, or played again."""
        if (kept := self._live.pop(state.tobytes(), None)) is not None:
            return kept[0]
        self._begun(state)
        env, _ = self._live.popitem()[1]
        for action in state[2 : 2 + int(state[1]) * self.actions].reshape(-1, self.actions):
            env.step(self._own(action))
        return env
