"""All networks of one worker as one module, whose parameters are a row of x; and what others carry of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from decentral.comm.layout import Layout
from decentral.problems.reinforcement.networks import (
    Critic,
    Critics,
    DeterministicActor,
    GaussianActor,
    network,
)
from decentral.problems.reinforcement.representation import OFENet, Plain

if TYPE_CHECKING:
    from decentral.problems.reinforcement.environment import Environment
    from decentral.problems.reinforcement.settings import Settings


class Agent(nn.Module):
    """SAC's log temperature (1,) where it is tuned, representation, actor, and two critics: a row in this order."""

    representation: OFENet | Plain
    actor: GaussianActor | DeterministicActor

    def __init__(self, settings: Settings, env: Environment) -> None:
        super().__init__()
        o, a, s = env.observations, env.actions, settings
        hidden = [s.width] * s.depth
        if s.representation == "ofenet":
            self.representation = OFENet(o, a, s.representation_units, s.representation_layers, "swish")
        else:
            self.representation = Plain(o, a)
        seen, both = self.representation.seen, self.representation.both
        if s.learner == "sac":
            self.actor = GaussianActor(network(seen, hidden, 2 * a, s.connection, s.activation))
        else:
            body = network(seen, hidden, a, s.connection, s.activation)
            self.actor = DeterministicActor(body, s.exploration)
        critics = (Critic(network(both, hidden, 1, s.connection, s.activation)) for _ in range(2))
        self.critics = Critics(critics)
        if s.learner == "sac" and s.temperature is None:
            self.log_temperature = nn.Parameter(torch.zeros(1))
        self.eval()


class Target(nn.Module):
    """The slow copies: of the critics, and of TD3's actor."""

    actor: DeterministicActor

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        if isinstance(agent.actor, DeterministicActor):
            self.actor = copy.deepcopy(agent.actor)
        self.critics = copy.deepcopy(agent.critics)
        self.requires_grad_(False)


class Policy(nn.Module):
    """What acts: features of observations, and the actor."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.state, self.actor = agent.representation.state, agent.actor

    @torch.no_grad()
    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Actions to collect with."""
        return self.actor.explore(self.state(observation), noise)

    @torch.no_grad()
    def mode(self, observation: Tensor) -> Tensor:
        """Actions to be judged by."""
        return self.actor.mode(self.state(observation))


class Carried:
    """A policy by itself, whose numbers are those of a row (c,): parameters, then the statistics of batch norms.

    ``names``: what an :class:`Agent` calls these, in the row's order.
    """

    def __init__(self, agent: Agent) -> None:
        self.policy = copy.deepcopy(Policy(agent)).cpu().requires_grad_(False).eval()
        named = [*self.policy.named_parameters(), *self.policy.named_buffers()]
        self.parts = {name: tensor for name, tensor in named if tensor.is_floating_point()}
        self.layout = Layout.of(self.parts.items())
        own = (span.name for span in self.layout.spans)
        self.names = [name if name.startswith("actor.") else f"representation.{name}" for name in own]

    def row_of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """A copy (c,) of what an agent has under these names."""
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.names]).cpu()

    def put(self, row: Tensor) -> Policy:
        """The policy with the row's numbers: views of it, not copies."""
        for name, view in self.layout.views(row).items():
            self.parts[name].data = view
        return self.policy
