"""OFENet: features of observations and actions, learned by foretelling the next observation and by nothing else.

    z_o = blocks(o),    z_oa = blocks((z_o, a)),    loss = mean (W z_oa + b - o')^2

Its gradient stands in the row beside those of policy and critics, so behind a rule that acts on each number by itself,
as Adam, it has an optimizer of its own; no other loss has a gradient in its columns. Reference: arXiv 2003.01629.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decentral.problems.reinforcement.networks import Activation, dense_blocks


class OFENet(nn.Module):
    """``layers`` blocks with batch norm in each branch, of ``units`` / ``layers`` units each; O and A: numbers there.

    O + units features of an observation, O + A + 2 units of an observation and an action.
    """

    def __init__(
        self, observations: int, actions: int, units: int, layers: int, activation: Activation
    ) -> None:
        super().__init__()
        hidden = [units // layers] * layers
        self.seen, self.both = observations + units, observations + actions + 2 * units
        self.state = dense_blocks(observations, hidden, activation, norm=True)
        self.action = dense_blocks(self.seen + actions, hidden, activation, norm=True)
        self.predict = nn.Linear(self.both, observations)

    def of_pair(self, z: Tensor, action: Tensor) -> Tensor:
        """Features of an observation's features z and an action."""
        features: Tensor = self.action(torch.cat([z, action], dim=-1))
        return features

    def loss(self, observation: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """The mean square error of what it foretells, with the batch's own statistics."""
        self.train()
        foretold: Tensor = self.predict(self.of_pair(self.state(observation), action))
        self.eval()
        return (foretold - following).square().mean()


class Plain(nn.Module):
    """No representation: observations, and observations with actions, as they are."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.seen, self.both = observations, observations + actions
        self.state = nn.Identity()

    def of_pair(self, z: Tensor, action: Tensor) -> Tensor:
        """Both, one after the other."""
        return torch.cat([z, action], dim=-1)
