"""Which weights the passes of an asynchronous pipeline see, and what a delayed gradient does to them.

Between a batch's forward and backward pass a stage makes ``delay`` updates with earlier batches. An optimizer works
in place, which autograd would refuse, so the forward pass runs on stand-ins for the parameters: aliases, which share
their memory, or copies. A weight that a layer derives from its parameters (weight norm) stays the forward pass's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from decentral.runtime import Compute, Program
from decentral.stages.stage import Pass, Stage


@dataclass(eq=False)
class StalePass:
    """A kept forward pass, and the stand-ins that it ran on."""

    kept: Pass
    weights: Mapping[str, Tensor]


class CurrentWeights:
    """No correction: activations are the forward pass's, weights are those at the backward pass. One copy of weights.

    With delay 0 it is back-propagation.
    """

    def __init__(self, stage: Stage, delay: int) -> None:
        self.stage, self.delay = stage, delay
        self.layers = _Layers(stage)
        self.parameters = dict(self.layers.named_parameters())

    def stand_in(self, p: nn.Parameter) -> Tensor:
        """What the forward pass runs on instead of p."""
        # not detach(): an alias through .data has a version counter of its own, so the update is not noticed
        return p.data

    def copies(self) -> list[Tensor]:
        """The weights as they are."""
        return [p.data.clone() for p in self.parameters.values()]

    def forward(self, x: Tensor) -> StalePass:
        """The stage's forward pass, kept."""
        weights = {n: self.stand_in(p).requires_grad_(p.requires_grad) for n, p in self.parameters.items()}
        kept = functional_call(self.layers, weights, (x, not self.stage.first))
        return StalePass(kept, weights)

    def backward(self, t: int, stale: StalePass, dy: Tensor | None) -> Tensor | None:
        """Put the gradients of batch t into the parameters' ``grad``; the gradient at the stage's input.

        ``dy``: at the stage's output; None on the last stage, which begins with the loss.
        """
        if dy is None:
            dx = self.stage.backward_from_loss(stale.kept, self.stage.labels(t), t)
        else:
            dx = self.stage.backward(stale.kept, dy)
        for name, p in self.parameters.items():
            p.grad = stale.weights[name].grad
        return dx

    def learn(self, t: int) -> Program:
        """The stage's update with the gradients of batch t."""
        yield from self.stage.learn(t)


class StashedWeights(CurrentWeights):
    """Weight stashing: the backward pass has the weights of its forward pass, so it gives a true gradient at them.

    A copy of the weights for each pass under way, besides the current ones.
    """

    def stand_in(self, p: nn.Parameter) -> Tensor:
        """A copy."""
        return p.data.clone() if self.delay else p.data


class PipeMare(CurrentWeights):
    """Smaller first steps, and an estimate u of the forward pass's weights for the backward pass; see StalePipeline.

    d, the average of the weights' steps, is kept: two copies of weights in all, one more during a backward pass.
    """

    def __init__(self, stage: Stage, delay: int, anneal_steps: int, decay: float) -> None:
        super().__init__(stage, delay)
        self.anneal_steps = anneal_steps
        self.decay: float = decay ** (1 / delay)
        self.mean_steps = [torch.zeros_like(p.data) for p in self.parameters.values()]

    def backward(self, t: int, stale: StalePass, dy: Tensor | None) -> Tensor | None:
        """With u in the place of the weights."""
        weights = [p.data for p in self.parameters.values()]
        current = self.copies()
        for w, d in zip(weights, self.mean_steps, strict=True):
            w.sub_(d, alpha=self.delay)
        dx = super().backward(t, stale, dy)
        for w, now in zip(weights, current, strict=True):
            w.copy_(now)
        return dx

    def learn(self, t: int) -> Program:
        """The optimizer's step, scaled as its learning rate should be: it is linear in the learning rate."""
        before = yield Compute("update", self.copies, tag=t)
        yield from super().learn(t)
        yield Compute("update", self._scale, t, before, tag=t)

    def _scale(self, t: int, before: list[Tensor]) -> None:
        weights = [p.data for p in self.parameters.values()]
        scale = self.delay ** (min(t / self.anneal_steps, 1) - 1)
        for w, old, d in zip(weights, before, self.mean_steps, strict=True):
            w.sub_(old).mul_(scale)
            d.mul_(self.decay).add_(w, alpha=1 - self.decay)
            w.add_(old)


class LookAhead(StashedWeights):
    """Stashed weights, and Nesterov's look-ahead around the optimizer's step; see StalePipeline.

    The stage's parameters hold the look-ahead point. One more copy of weights, the velocity.
    """

    def __init__(self, stage: Stage, delay: int, momentum: float) -> None:
        super().__init__(stage, delay)
        self.momentum = momentum
        self.velocities = [torch.zeros_like(p.data) for p in self.parameters.values()]

    def learn(self, t: int) -> Program:
        """The optimizer's step s, damped, and the look-ahead from where it leads."""
        before = yield Compute("update", self.copies, tag=t)
        yield from super().learn(t)
        yield Compute("update", self._look_ahead, before, tag=t)

    def _look_ahead(self, before: list[Tensor]) -> None:
        weights = [p.data for p in self.parameters.values()]
        for w, old, v in zip(weights, before, self.velocities, strict=True):
            s = w.sub_(old).mul_(1 - self.momentum)
            v.mul_(self.momentum).add_(s)
            w.add_(old).add_(v, alpha=self.momentum)


class _Layers(nn.Module):
    """The stage's forward pass as a module, so that its parameters can be stood in for."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.layers = stage.modules
        self.pass_through = stage.forward

    def forward(self, x: Tensor, input_gradient: bool) -> Pass:
        return self.pass_through(x, input_gradient)
