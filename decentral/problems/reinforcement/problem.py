"""Reinforcement learning as a problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decentral.problems.reinforcement.environments import environment
from decentral.problems.reinforcement.settings import Settings
from decentral.problems.sizes import refuse_models

if TYPE_CHECKING:
    from decentral.problems.capabilities import BatchSize
    from decentral.problems.objective import Place
    from decentral.problems.reinforcement.environment import Environment
    from decentral.problems.reinforcement.objective import ReinforcementObjective


@dataclass(frozen=True)
class ReinforcementLearning(Settings):
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

        return ReinforcementObjective(self, self.environment(), place)
