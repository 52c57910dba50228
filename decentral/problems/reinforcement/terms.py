"""The losses of one worker, each with the parameters whose gradient it is: together they are a row.

All at the incoming x: the actor's loss has the critics that the critics' loss has, not those after their step. Of each

    critics         1/2 sum_j mean_i w_i (Q_j(z_i, a_i) - y_i)^2,      w_i the importance weights of the replay
    actor, temperature     see :class:`SAC` and :class:`TD3`
    representation         see :mod:`decentral.problems.reinforcement.representation`

with features z that only their own loss differentiates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from decentral.problems.reinforcement.agent import Agent, Target
from decentral.problems.reinforcement.representation import OFENet


class Batch(NamedTuple):
    """Transitions: observations (B, O), actions (B, A), rewards (B,), next observations, terminations, weights (B,)."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    following: Tensor
    terminated: Tensor
    weight: Tensor


class Noise(NamedTuple):
    """Standard normal numbers (B, A): of the actions that follow, and of those now."""

    following: Tensor
    now: Tensor


Term = tuple[Tensor, Sequence[Tensor]]
"""A loss, and the parameters that it is differentiated by."""


class Learner(Protocol):
    """What SAC and TD3 differ in."""

    def value(self, agent: Agent, target: Target, z: Tensor, noise: Tensor) -> Tensor:
        """What critics expect (B,) after observations with features z, where these are not terminal."""

    def terms(self, agent: Agent, z: Tensor, noise: Tensor, t: int) -> list[Term]:
        """The losses of the actor, and of what belongs to it, in round t."""

    def moves_target(self, t: int) -> bool:
        """Whether round t has moved the slow copies, when it is over."""


class Terms(NamedTuple):
    """All losses of a round; ``critic``: their value for the critics, ``errors`` (B,): mean |Q_j - y| of the two."""

    terms: list[Term]
    critic: Tensor
    errors: Tensor


def terms_of(
    learner: Learner, agent: Agent, target: Target, batch: Batch, noise: Noise, discount: float, t: int
) -> Terms:
    """The losses of round t over this batch."""
    found: list[Term] = []
    of = agent.representation
    if isinstance(of, OFENet):
        found.append((of.loss(batch.observation, batch.action, batch.following), [*of.parameters()]))
    with torch.no_grad():
        z = of.state(batch.observation)
        both = of.of_pair(z, batch.action)
        value = learner.value(agent, target, of.state(batch.following), noise.following)
        y = batch.reward + discount * (1 - batch.terminated) * value
    apart = torch.stack([critic(both) - y for critic in agent.critics])
    critic = 0.5 * (batch.weight * apart.square()).mean(1).sum()
    found += [(critic, [*agent.critics.parameters()]), *learner.terms(agent, z, noise.now, t)]
    return Terms(found, critic.detach(), apart.detach().abs().mean(0))
