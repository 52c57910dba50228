"""Soft actor-critic."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from decentral.problems.reinforcement.agent import Agent, Target
from decentral.problems.reinforcement.networks import GaussianActor
from decentral.problems.reinforcement.terms import Term


@dataclass(frozen=True)
class SAC:
    """Soft actor-critic; references: arXiv 1801.01290, 1812.05905 (two critics, a tuned temperature).

        y = r + gamma (1 - terminated) (min_j Q'_j(z', a') - alpha log pi(a' | z')),      a' ~ pi(z')
        actor         mean alpha log pi(a | z) - min_j Q_j(z, a),                         a ~ pi(z), by its noise
        temperature   mean -alpha (log pi(a | z) + H),                   alpha = exp(log alpha), H = -``actions``

    ``temperature``: alpha, where it is fixed. The slow copies move after each round.
    """

    temperature: float | None
    actions: int

    def value(self, agent: Agent, target: Target, z: Tensor, noise: Tensor) -> Tensor:
        """See :class:`Learner`."""
        action, density = _policy(agent).sample(z, noise)
        return target.critics.least(agent.representation.of_pair(z, action)) - self._alpha(agent) * density

    def terms(self, agent: Agent, z: Tensor, noise: Tensor, t: int) -> list[Term]:
        """See :class:`Learner`."""
        del t
        action, density = _policy(agent).sample(z, noise)
        alpha = self._alpha(agent)
        least = agent.critics.least(agent.representation.of_pair(z, action))
        found: list[Term] = [((alpha * density - least).mean(), [*agent.actor.parameters()])]
        if self.temperature is None:
            surplus = density.detach() - self.actions
            found.append(((-agent.log_temperature.exp() * surplus).mean(), [agent.log_temperature]))
        return found

    def moves_target(self, t: int) -> bool:
        """See :class:`Learner`."""
        del t
        return True

    def _alpha(self, agent: Agent) -> Tensor | float:
        return agent.log_temperature.detach().exp() if self.temperature is None else self.temperature


def _policy(agent: Agent) -> GaussianActor:
    assert isinstance(agent.actor, GaussianActor)
    return agent.actor
