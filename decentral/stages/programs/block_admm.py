"""Stochastic block-ADMM: blocks of a network trained in parallel, tied by constraints with dual variables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from decentral.runtime import Compute, Done, Program, Recv, Send
from decentral.stages.factorisation import NonNegativeFactorisation
from decentral.stages.part_statistics import PartStatistics
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import ACTIVATIONS, GRADIENTS
from decentral.stages.programs.penalty import (
    check_positive,
    check_same_batch,
    check_setting,
    forward_pass,
    loss_gradient,
)
from decentral.stages.stage import Pass, Stage
from topologies.settings import finite_settings, plain_settings

LAST = 10
"""What parts stand for is found in the last 1 / LAST of the steps, rounded up."""


@dataclass(frozen=True)
class BlockADMM(StageProgram):
    """Blocks f_t, t = 1 .. T, one a stage (0 .. T-1), with constraints on what goes from one to the next.

        z_0 = the data,    z_t = f_t(z_{t-1}; theta_t) for t < T

    With scaled duals u_t and B samples i, ``inner`` times a step, each line on all stages at once:

        z_t     <- z_t - zeta d/dz_t [ sum_i l_{t+1,i}(z_t) + beta/2 |z_t - f_t(z_{t-1}) + u_t|^2 ]
        theta_t <- optimizer on  beta/(2B) |z_t - f_t(z_{t-1}) + u_t|^2;    theta_T <- optimizer on the mean loss
        u_t     <- u_t + z_t - f_t(z_{t-1})

    l_{t+1,i} is the next block's beta/2 |z_{t+1} - f_{t+1}(z_t) + u_{t+1}|^2 of sample i, for the last block the loss.
    z and u problems are per sample (sums), theta problems means: neither step depends on B.
    A step is one batch. Setting "online": z = the values of a forward pass, u = 0. Setting "batch": z and u are kept
    for every training sample, so every step must have the same batch, all the data.

    ``factors`` = r, if not 0, puts a non-negative factorisation before the last block: after its gradient step
    z_{T-1} is replaced by M S ~ z_{T-1} with r non-negative parts, ``sweeps`` of alternating least squares later.
    The parts S stay from step to step. At its end a run leaves :class:`PartStatistics` in the findings of stage T-2,
    from the batches of the last tenth of the steps: M is of f_{T-1}(z_{T-2}) before the batch's first update, which
    in the setting "online" is a forward pass's: the step's labels have not moved it. S is as the step before left it.

    Where things are: z_t, u_t, M and S on the stage of f_t, below its boundary. An iteration sends z_t up and
    sum_i dl_{t+1,i}/dz_t down: batch x width numbers each way; a forward pass adds as many up.
    Cost: two forward and two backward passes an iteration, the first backward for the input only. With
    zeta beta = 1 the first theta step of block T-1 is that of back-propagation; the blocks below have none yet: the
    gradient goes down one block an iteration.
    Unstable in many iterations where zeta > 4 / (3 beta), and earlier the more l_{t+1} curves. M S and u are for
    training: the network that is evaluated has neither.
    Reference: Khorram et al. 2021 (arXiv 2105.00339). Equations in our notation; beta, zeta, and the factorisation's
    place and solver are ours.
    """

    of_one_loss: ClassVar[bool] = False

    beta: float = 1.0
    zeta: float = 0.5
    inner: int = 4
    setting: Literal["online", "batch"] = "online"
    factors: int = 0
    sweeps: int = 10

    def __post_init__(self) -> None:
        plain_settings(self)
        check_positive(self, "beta", "zeta", "inner", "sweeps")
        check_setting(self.setting)
        if self.factors < 0:
            raise ValueError(f"factors = {self.factors} must not be negative; 0 is no factorisation")
        finite_settings(self)

    def run(self, stage: Stage) -> Program:
        """The stage's program. Raises ValueError where there are ``factors`` and no boundary."""
        if self.factors and stage.count < 2:
            raise ValueError(
                f"factors = {self.factors} needs a boundary; cut the network into 2 stages or more"
            )
        if self.factors and stage.index == stage.count - 2:
            return self._run(stage, NonNegativeFactorisation(self.factors))
        return self._run(stage, None)

    def _run(self, stage: Stage, factorisation: NonNegativeFactorisation | None) -> Program:
        beta = self.beta
        below: Tensor  # z_{t-1}
        z: Tensor
        u: Tensor
        pictured, seen = stage.steps - math.ceil(stage.steps / LAST), PartStatistics(self.sweeps)
        for t in range(stage.steps):
            size = len(stage.labels(t))
            kept: Pass | None = None
            if self.setting == "batch":
                check_same_batch(stage, t)
            if t == 0 or self.setting == "online":
                kept = yield from forward_pass(stage, t)
                below, z = kept.x.detach(), kept.y.detach()
                u = torch.zeros_like(z)
                if factorisation:
                    yield Compute("factorisation", factorisation.start, z, tag=t)
            for i in range(self.inner):
                tag = (t, i)
                if kept is None:
                    kept = yield Compute("forward", stage.forward, below, not stage.first, tag=tag)
                    if not stage.last:  # the dual step of the iteration before: here f_t's new value is known
                        u = u + z - kept.y.detach()
                if factorisation and i == 0 and t >= pictured:  # a measurement: on no clock
                    seen.add(factorisation.parts, kept.y.detach(), *stage.batch(t))
                if not stage.first:
                    dy = None if stage.last else -beta * (z - kept.y.detach() + u)
                    dx = yield Compute("backward", _input_gradient, stage, kept, t, dy, tag=tag)
                    yield Send(stage.to_previous(GRADIENTS), dx)
                if not stage.last:
                    above = yield Recv(stage.from_next(GRADIENTS))
                    z = z - self.zeta * (above + beta * (z - kept.y.detach() + u))
                    if factorisation:
                        z = yield Compute("factorisation", factorisation.fit, z, self.sweeps, tag=tag)
                    yield Send(stage.to_next(ACTIVATIONS), z)
                if not stage.first:
                    below = yield Recv(stage.from_previous(ACTIVATIONS))
                    kept = yield Compute("forward", stage.forward, below, False, tag=tag)
                if stage.last:
                    yield Compute("backward", loss_gradient, stage, kept, t, tag=tag)
                else:
                    dy = -beta / size * (z - kept.y.detach() + u)
                    yield Compute("backward", stage.backward, kept, dy, tag=tag)
                yield from stage.learn(t, tag)
                kept = None
            yield Done(t)
        if factorisation:
            stage.findings |= seen.findings()


def _input_gradient(stage: Stage, kept: Pass, t: int, dy: Tensor | None) -> Tensor:
    """The gradient at the pass's input and at nothing else: from dy, on the last stage from the loss's sum."""
    if dy is None:
        labels = stage.labels(t)
        loss = stage.loss(kept.y, labels)
        if t not in stage.losses:
            stage.note_loss(t, loss)
        return torch.autograd.grad(loss * len(labels), kept.x)[0]
    return torch.autograd.grad(kept.y, kept.x, dy)[0]
