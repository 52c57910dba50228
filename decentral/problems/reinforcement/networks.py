"""The networks: dense or wide with all features kept, policies, and critics in pairs.

A block of :class:`DenseBlock` gives its new features first, then what it was given: y = (act(BN(W x + b)), x), as in
arXiv 2102.07920. Only a representation has the batch norm.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

if TYPE_CHECKING:
    from collections.abc import Sequence

Connection = Literal["mlp", "densenet"]
Activation = Literal["relu", "swish"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "swish": nn.SiLU}
_LOG_STD = -20.0, 2.0


class DenseBlock(nn.Module):
    """(B, inputs) -> (B, units + inputs)."""

    def __init__(self, inputs: int, units: int, activation: Activation, norm: bool = False) -> None:
        super().__init__()
        parts = [
            nn.Linear(inputs, units),
            *([nn.BatchNorm1d(units)] if norm else []),
            ACTIVATIONS[activation](),
        ]
        self.new = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """New features first."""
        return torch.cat([self.new(x), x], dim=-1)


def dense_blocks(
    inputs: int, hidden: Sequence[int], activation: Activation, norm: bool = False
) -> nn.Sequential:
    """One block after the other, of so many units each; it gives inputs + sum(hidden) features."""
    before = itertools.accumulate(hidden, initial=inputs)
    return nn.Sequential(
        *(DenseBlock(n, units, activation, norm) for n, units in zip(before, hidden, strict=False))
    )


def network(
    inputs: int, hidden: Sequence[int], outputs: int, connection: Connection, activation: Activation
) -> nn.Sequential:
    """Hidden layers that are so connected, then a linear one."""
    if connection == "densenet":
        blocks = dense_blocks(inputs, hidden, activation)
        return nn.Sequential(*blocks, nn.Linear(inputs + sum(hidden), outputs))
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *hidden]):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))


class Critic(nn.Module):
    """Q of the features (B, F) of observations and actions: (B,)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, features: Tensor) -> Tensor:
        """The values."""
        values: Tensor = self.body(features)
        return values.squeeze(-1)


class Critics(nn.ModuleList):
    """A pair."""

    def least(self, features: Tensor) -> Tensor:
        """The smaller value of the two, (B,)."""
        one, other = (critic(features) for critic in self)
        return torch.minimum(one, other)


class GaussianActor(nn.Module):
    """SAC's policy: a = tanh(u), u normal with the mean and the standard deviation that the body gives (B, 2 A)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def sample(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, A) of standard normal ``noise`` (B, A), and their log densities (B,).

        log pi(a) = sum_k log N(u_k) - log(1 - tanh(u_k)^2)
        """
        mean, log_std = self.body(features).chunk(2, dim=-1)
        log_std = log_std.clamp(*_LOG_STD)
        u = mean + log_std.exp() * noise
        normal = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        squashed = 2 * (math.log(2) - u - softplus(-2 * u))
        return torch.tanh(u), (normal - squashed).sum(-1)

    def explore(self, features: Tensor, noise: Tensor) -> Tensor:
        """Actions to collect with."""
        return self.sample(features, noise)[0]

    def mode(self, features: Tensor) -> Tensor:
        """Actions to be judged by."""
        return torch.tanh(self.body(features).chunk(2, dim=-1)[0])


class DeterministicActor(nn.Module):
    """TD3's policy: a = tanh of what the body gives (B, A); it collects with noise of deviation ``exploration``."""

    def __init__(self, body: nn.Module, exploration: float) -> None:
        super().__init__()
        self.body, self.exploration = body, exploration

    def explore(self, features: Tensor, noise: Tensor) -> Tensor:
        """Actions to collect with."""
        return (self.mode(features) + self.exploration * noise).clamp(-1, 1)

    def mode(self, features: Tensor) -> Tensor:
        """Actions to be judged by."""
        return torch.tanh(self.body(features))
