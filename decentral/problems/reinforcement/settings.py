"""The keys of the problem of reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from decentral.problems.objective import check_positive
from decentral.problems.reinforcement.environments import check_name
from decentral.problems.sizes import check_layers
from topologies.wording import shown


@dataclass(frozen=True)
class Settings:
    """The keys, and what they must be; what they mean: :class:`ReinforcementLearning`."""

    env: str = "pendulum"
    learner: Literal["sac", "td3"] = "sac"
    width: int = 64
    depth: int = 2
    connection: Literal["mlp", "densenet"] = "mlp"
    activation: Literal["relu", "swish"] = "relu"
    representation: Literal["none", "ofenet"] = "none"
    representation_units: int = 240
    representation_layers: int = 6
    discount: float = 0.99
    tau: float = 0.005
    reward_scale: float = 1.0
    temperature: float | None = None
    policy_delay: int = 2
    target_noise: float = 0.2
    target_clip: float = 0.5
    exploration: float = 0.1
    replay: int = 20_000
    prioritised: bool = False
    priority_exponent: float = 0.6
    importance_exponent: float = 0.4
    actors: int = 1
    envs: int = 1
    steps: int = 1
    warmup: int = 500
    pull_every: int = 1
    actor_ranks: int = 0
    episodes: int = 10
    episode_steps: int | None = None

    def __post_init__(self) -> None:
        check_name(self.env)
        check_layers(depth=self.depth, representation_layers=self.representation_layers)
        check_positive(
            width=self.width, representation_units=self.representation_units, reward_scale=self.reward_scale,
            policy_delay=self.policy_delay, replay=self.replay, actors=self.actors, envs=self.envs, steps=self.steps,
            warmup=self.warmup, pull_every=self.pull_every, episodes=self.episodes,
        )  # fmt: skip
        if self.episode_steps is not None:
            check_positive(episode_steps=self.episode_steps)
        self._check_shares()
        self._check_numbers()

    def _check_shares(self) -> None:
        if self.representation_units % self.representation_layers:
            raise ValueError(
                f"representation_units = {shown(self.representation_units)} must be a multiple of "
                f"representation_layers = {self.representation_layers}, which share them"
            )
        if self.actor_ranks < 0 or (self.actor_ranks and self.actors % self.actor_ranks):
            raise ValueError(
                f"actor_ranks = {shown(self.actor_ranks)} must be 0 or divide actors = {shown(self.actors)}, which "
                "they share"
            )
        most = self.actors * self.envs * max(self.steps, self.warmup)
        if most > self.replay:
            raise ValueError(
                f"replay = {shown(self.replay)} must hold the {shown(most)} transitions of a round and of the warm-up; "
                "make it larger"
            )

    def _check_numbers(self) -> None:
        for key in ("discount", "tau"):
            if not 0 < getattr(self, key) <= 1:
                raise ValueError(f"{key} = {shown(getattr(self, key))} must be above 0 and at most 1")
        keys = ("target_noise", "target_clip", "exploration", "priority_exponent", "importance_exponent")
        for key in (*keys, *(["temperature"] if self.temperature is not None else [])):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ValueError(f"{key} = {shown(getattr(self, key))} must not be negative")
