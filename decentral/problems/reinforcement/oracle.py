"""One worker's gradient row, from its row of x, its slow copies, and a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decentral.comm.layout import Layout
from decentral.problems.reinforcement.agent import Agent, Target
from decentral.problems.reinforcement.sac import SAC
from decentral.problems.reinforcement.td3 import TD3
from decentral.problems.reinforcement.terms import Batch, Learner, Noise, Terms, terms_of

if TYPE_CHECKING:
    from decentral.problems.reinforcement.environment import Environment
    from decentral.problems.reinforcement.settings import Settings


def learner_of(settings: Settings, actions: int) -> Learner:
    """SAC or TD3, with their settings."""
    if settings.learner == "sac":
        return SAC(settings.temperature, actions)
    return TD3(settings.policy_delay, settings.target_noise, settings.target_clip)


class RowOracle:
    """All workers of a process take turns at one agent. ``slow``: the columns of x that the slow copies follow."""

    def __init__(self, settings: Settings, env: Environment, agent: Agent, layout: Layout) -> None:
        self.settings, self.agent, self.layout = settings, agent, layout
        self.learner, self.target = learner_of(settings, env.actions), Target(agent)
        named = dict(agent.named_parameters())
        self.parameters: dict[str, Tensor] = {span.name: named[span.name] for span in layout.spans}
        copies: dict[str, Tensor] = dict(self.target.named_parameters())
        self.target_layout, self.copies = Layout.of(copies.items()), copies
        followed = [span for span in layout.spans if span.name in copies]
        self.slow = slice(followed[0].start, followed[-1].stop)
        self.widths = [env.observations, env.actions, 1, env.observations, 1]

    def follow(self, x: Tensor, slow: Tensor, t: int) -> None:
        """Move slow copies (h, c) towards x (h, d), if the round before has: t is the one that begins."""
        if t > 0 and self.learner.moves_target(t - 1):
            slow.lerp_(x[:, self.slow], self.settings.tau)

    def batch(self, rows: Tensor, weight: Tensor) -> Batch:
        """Of transitions (B, width)."""
        o, a, r, following, terminated = rows.split_with_sizes(self.widths, dim=1)
        return Batch(o, a, r[:, 0], following, terminated[:, 0], weight)

    def gradient(self, x: Tensor, slow: Tensor, batch: Batch, noise: Noise, t: int, g: Tensor) -> Terms:
        """The losses at x (d,) with slow copies (c,); their gradient is put into g (d,)."""
        _bind(self.parameters, self.layout.views(x))
        _bind(self.copies, self.target_layout.views(slow))
        found = terms_of(self.learner, self.agent, self.target, batch, noise, self.settings.discount, t)
        slopes = self.layout.views(g)
        at = {id(parameter): slopes[name] for name, parameter in self.parameters.items()}
        g.zero_()
        for loss, parameters in found.terms:
            for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                at[id(parameter)].copy_(slope)
        return found


def _bind(parameters: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> None:
    for name, view in views.items():
        parameters[name].data = view
