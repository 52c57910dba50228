"""Layer-parallel training with auxiliary variables: the boundary values are unknowns that constraints tie together.

With its input held as a variable, no stage waits for the forward or the backward pass of another.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from decentral.errors import UserError
from decentral.runtime import Compute, Done, Program, Recv, Request, Send
from decentral.stages.down_sampling import pooled, repeated
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import ACTIVATIONS, GRADIENTS, backprop_step
from decentral.stages.stage import Pass, Stage
from topologies.settings import finite_settings, plain_settings
from topologies.wording import shown


@dataclass(frozen=True)
class Penalty(StageProgram):
    """Stages of a network in parallel, joined by a quadratic penalty on the boundary values lambda_k.

    Stage k = 0 .. K-1 maps its input lambda_k (lambda_0 = the data) to X_k(lambda_k; theta_k). Over theta and lambda,
    with phi the loss of a sample and every term a mean over the batch's B samples:

        min  phi(X_{K-1}) + beta sum_{k=1}^{K-1} |lambda_k - X_{k-1}(lambda_{k-1})|^2

    In each iteration, on all stages at once, with p_k = the gradient of a sample's terms in X_k at lambda_k:

        theta_k  <- theta_k - lr grad_theta_k                     (the stage's optimizer, on the mean)
        lambda_k <- lambda_k - eta (p_k + 2 beta (lambda_k - X_{k-1}))                    (each sample)

    A step is one batch: ``inner`` iterations; the loss noted for it is that of its first pass. Setting "online":
    lambda begins at the values of a forward pass. Setting "batch": lambda is kept for every training sample, so every
    step must have the same batch, all the data. ``serial_every`` = n: steps 0, n, 2n, ... begin with one step of
    back-propagation through all stages, which leaves lambda at the boundary activations; 0 is never; 1 with
    ``inner`` = 0 is back-propagation.

    Where things are: lambda_k on stage k, above its boundary. An iteration sends X_{k-1} up and the gradient of the
    penalty at X_{k-1} down: batch x width numbers each way, as back-propagation does, but all stages at once.
    A serial step adds as many each way; an online forward pass nothing (it is the first iteration's message).
    ``down_sample`` = s: what crosses in iterations is averaged over s x s pixels of maps, or s neighbouring
    features, and repeated on arrival: 1 / s^2 or 1 / s of the bytes. The constraint is then lambda_k = P X_{k-1}
    with that projection P, its own transpose. Back-propagation steps send everything.

    Trap: after a forward pass lambda = X, so only the last stage has a gradient; it goes down one stage an
    iteration, times 2 beta eta at first: stage 0 learns only where ``inner`` >= K or there are serial steps.
    Unstable where eta > 1 / (beta (1 + |J|^2)), J the Jacobian of a stage, in many iterations.
    Reference: Sun et al. 2020 (arXiv 2009.01462). Equations in our notation; beta, eta and the filter are ours.
    """

    beta: float = 1.0
    eta: float = 0.25
    inner: int = 4
    serial_every: int = 0
    setting: Literal["online", "batch"] = "online"
    down_sample: int = 1

    def __post_init__(self) -> None:
        plain_settings(self)
        check_positive(self, "beta", "eta")
        check_setting(self.setting)
        if self.serial_every < 0:
            raise ValueError(f"serial_every = {self.serial_every} must not be negative; 0 is never")
        if self.inner < (0 if self.serial_every == 1 else 1):
            raise ValueError(f"inner = {self.inner} must be at least 1, or 0 with serial_every = 1")
        if self.down_sample < 1:
            raise ValueError(f"down_sample = {self.down_sample} must be at least 1; 1 sends everything")
        finite_settings(self)

    def run(self, stage: Stage) -> Program:
        """The stage's program. Raises UserError where ``down_sample`` does not divide a boundary."""
        return _run(self, stage, with_multipliers=False, adjoint=False)


@dataclass(frozen=True)
class AugmentedLagrangian(Penalty):
    """:class:`Penalty` with a multiplier kappa_k for each boundary, which becomes the adjoint dphi/dlambda_k.

        min  Penalty's objective - sum_k <kappa_k, lambda_k - X_{k-1}>
        lambda_k <- lambda_k - eta (p_k + 2 beta (lambda_k - X_{k-1}) - kappa_k)
        kappa_k  <- kappa_k - 2 beta (lambda_k - X_{k-1})         (after theta and lambda, with their new values)

    kappa_k is on stage k next to lambda_k; it goes down only inside the gradient at X_{k-1}, so the cost is
    :class:`Penalty`'s. It begins at 0; with ``adjoint`` a back-propagation step sets it to the boundary's gradient.
    Where kappa is the adjoint and lambda consistent, every stage has the gradient of back-propagation and lambda rests:
    fixed points are those of back-propagation, which the penalty alone only approaches as beta grows.
    Unstable in many iterations earlier than the penalty: with J = 0 where eta > 2 / (3 beta).
    """

    adjoint: bool = True

    def run(self, stage: Stage) -> Program:
        """The stage's program. Raises UserError where ``down_sample`` does not divide a boundary."""
        return _run(self, stage, with_multipliers=True, adjoint=self.adjoint)


def _run(program: Penalty, stage: Stage, with_multipliers: bool, adjoint: bool) -> Program:
    s = program.down_sample
    value: Tensor  # lambda_k
    below: Tensor  # X_{k-1} as it came
    multiplier: Tensor | None = None  # kappa_k / B: as a gradient of the mean loss
    for t in range(stage.steps):
        kept: Pass | None = None
        size = len(stage.labels(t))
        beta, eta = program.beta / size, program.eta * size  # of a mean, where lambda's step is of one sample
        if program.setting == "batch":
            check_same_batch(stage, t)
        if program.serial_every and t % program.serial_every == 0:
            passed, dx = yield from backprop_step(stage, t)
            yield from stage.learn(t)
            value = passed.x.detach()
            if not stage.first:
                value = repeated(pooled(value, s), s)
            multiplier = dx if adjoint else None
        elif t == 0 or program.setting == "online":
            kept = yield from forward_pass(stage, t, s)
            value = below = kept.x.detach()
            multiplier = None
        for i in range(program.inner):
            tag = (t, i)
            if kept is None:
                kept = yield Compute("forward", stage.forward, value, not stage.first, tag=tag)
                if not stage.last:
                    yield Send(stage.to_next(ACTIVATIONS), pooled(kept.y.detach(), s))
                if not stage.first:
                    below = repeated((yield Recv(stage.from_previous(ACTIVATIONS))), s)
            if not stage.first:
                force = -2 * beta * (value - below)
                if with_multipliers:  # the dual step of the iteration before: here the new residual is known
                    multiplier = force if multiplier is None else multiplier + force
                    force = force + multiplier
                yield Send(stage.to_previous(GRADIENTS), pooled(force, s))
            if stage.last:
                dx = yield Compute("backward", loss_gradient, stage, kept, t, tag=tag)
            else:
                dy = repeated((yield Recv(stage.from_next(GRADIENTS))), s)
                dx = yield Compute("backward", stage.backward, kept, dy, tag=tag)
            yield from stage.learn(t, tag)
            if not stage.first:
                value = value - eta * (dx - force)
            kept = None
        yield Done(t)


def forward_pass(stage: Stage, t: int, s: int = 1) -> Generator[Request, Any, Pass]:
    """Step t's batch forward through all stages, one after the other, down-sampled by s; the stage's pass."""
    x = stage.inputs(t) if stage.first else repeated((yield Recv(stage.from_previous(ACTIVATIONS))), s)
    kept: Pass = yield Compute("forward", stage.forward, x, not stage.first, tag=t)
    if not stage.last:
        yield Send(stage.to_next(ACTIVATIONS), pooled(kept.y.detach(), s))
    return kept


def loss_gradient(stage: Stage, kept: Pass, t: int) -> Tensor | None:
    """The last stage's backward pass from the mean loss. Step t's first loss is noted, before its updates."""
    if t not in stage.losses:
        return stage.backward_from_loss(kept, stage.labels(t), t)
    return stage.backward(Pass(kept.x, stage.loss(kept.y, stage.labels(t))), None)


def check_same_batch(stage: Stage, t: int) -> None:
    """Refuse a batch other than step 0's, where variables are kept for each sample."""
    if stage.first and t and not torch.equal(stage.inputs(t), stage.inputs(0)):
        raise UserError(
            f"setting = 'batch' keeps variables for each sample, but step {t} has another batch; use all data"
        )


def check_positive(program: object, *names: str) -> None:
    """Refuse fields that are not above 0."""
    for name in names:
        if not getattr(program, name) > 0:
            raise ValueError(f"{name} = {getattr(program, name)} must be above 0")


def check_setting(setting: str) -> None:
    """Refuse a setting that is neither "online" nor "batch"."""
    if setting not in ("online", "batch"):
        raise ValueError(f"setting = {shown(setting)} must be 'online' or 'batch'")
