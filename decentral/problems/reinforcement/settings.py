"""Reinforcement learning: the settings of the problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decentral.problems.objective import check_positive
from decentral.problems.reinforcement.environment import check_name, environment
from decentral.problems.sizes import check_layers, refuse_models
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.problems.capabilities import BatchSize
    from decentral.problems.objective import Place
    from decentral.problems.reinforcement.environment import Environment
    from decentral.problems.reinforcement.objective import ReinforcementObjective


@dataclass(frozen=True)
class ReinforcementLearning:
    """SAC or TD3 (``learner``) in ``env``: "pendulum", "point-mass" or "gymnasium:NAME"; each worker learns for itself.

    A worker has environments and a replay of its own, and its actor and critics are one row of x; a round is one
    gradient over a batch of train.batch_size transitions, drawn from the replay.

    Networks have ``depth`` hidden layers of ``width``, ``connection`` "mlp" or "densenet" (each layer is given all
    features before it), and ``activation``. ``representation``: "ofenet" learns features of ``representation_layers``
    blocks, of ``representation_units`` in all, by foretelling observations (arXiv 2102.07920).
    ``discount``, ``tau`` (of the slow copies' moving average), ``reward_scale``. SAC: ``temperature``, tuned where
    left out. TD3: ``policy_delay``, ``target_noise`` and ``target_clip``, and ``exploration`` in collecting.

    ``replay``: transitions that a worker keeps. ``prioritised``: drawn in proportion to |error|^``priority_exponent``,
    weighted with ``importance_exponent``.
    ``actors`` of a worker, each with ``envs`` environments, make ``steps`` steps in each of these a round, after
    ``warmup`` steps of random actions. They act by the parameters of the pull before the last; one is every
    ``pull_every`` rounds. ``actor_ranks``: MPI ranks beside each rank of workers, which act for it; same numbers.
    ``episodes``: that a return is the mean of. ``episode_steps``: of an episode, where it is not the environment's own.
    """

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

    def environment(self) -> Environment:
        """Raises UserError where there is none."""
        return environment(self.env, self.episode_steps)

    def check(self, batch_size: BatchSize, weight_decay: float) -> None:
        """Batches are drawn from what is there by then, so they have a size."""
        del weight_decay
        if batch_size == "full":
            raise ValueError(
                'train.batch_size = "full" has no meaning in a replay that changes; set a number'
            )

    def columns(self, workers: int, weight_decay: float) -> tuple[str, ...]:
        """See :class:`decentral.problems.capabilities.Measured`."""
        del workers, weight_decay
        return ("samples", "return", "return_worker_mean", "return_worker_min", "environment_steps")

    def parameters(self) -> int:
        """See :class:`decentral.problems.capabilities.Sized`."""
        from decentral.problems.models.initialise import parameter_count
        from decentral.problems.reinforcement.agent import Agent

        env = self.environment()
        return parameter_count(lambda: Agent(self, env))

    def least_bytes(self, workers: int, itemsize: int) -> float:
        """The replays, and the states of the environments."""
        env = self.environment()
        state = self.actors * self.envs * (env.states + env.observations + 2)
        width = 2 * env.observations + env.actions + 2
        return workers * (float(itemsize) * self.replay * width + 8.0 * state)

    def prepare(self, workers: int, seed: int) -> None:
        """Make the environment, so that every mistake is found before any run starts."""
        del workers, seed
        refuse_models(self, 1, 4)

    def build(self, place: Place) -> ReinforcementObjective:
        """The objective of the hosted workers."""
        from decentral.problems.reinforcement.objective import ReinforcementObjective

        return ReinforcementObjective(self, place)
