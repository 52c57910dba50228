"""Twin delayed deep deterministic policy gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from decentral.problems.reinforcement.agent import Agent, Target
from decentral.problems.reinforcement.terms import Term


@dataclass(frozen=True)
class TD3:
    """TD3; reference: arXiv 1802.09477.

        y = r + gamma (1 - terminated) min_j Q'_j(z', clip(mu'(z') + clip(sigma eps, -c, c), -1, 1))
        actor   -mean Q_1(z, mu(z)),      in every ``delay``-th round, after which the slow copies move

    sigma = ``noise``, c = ``clip``. In other rounds the actor's gradient is zero: what has momentum goes on by
    what it remembers, so behind Adam the actor moves in these rounds too.
    """

    delay: int
    noise: float
    clip: float

    def value(self, agent: Agent, target: Target, z: Tensor, noise: Tensor) -> Tensor:
        """See :class:`Learner`."""
        smoothed = target.actor.mode(z) + (self.noise * noise).clamp(-self.clip, self.clip)
        return target.critics.least(agent.representation.of_pair(z, smoothed.clamp(-1, 1)))

    def terms(self, agent: Agent, z: Tensor, noise: Tensor, t: int) -> list[Term]:
        """See :class:`Learner`."""
        del noise
        if not self.moves_target(t):
            return []
        values = agent.critics[0](agent.representation.of_pair(z, agent.actor.mode(z)))
        return [(-values.mean(), [*agent.actor.parameters()])]

    def moves_target(self, t: int) -> bool:
        """See :class:`Learner`."""
        return (t + 1) % self.delay == 0
