"""Asynchronous pipelined back-propagation: batches follow each other without a flush, so gradients are delayed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, get_args

from decentral.runtime import Compute, Done, Program, Recv, Send
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import ACTIVATIONS, GRADIENTS
from decentral.stages.programs.stale_weights import (
    CurrentWeights,
    LookAhead,
    PipeMare,
    StalePass,
    StashedWeights,
)
from decentral.stages.stage import Stage
from topologies.settings import plain_settings
from topologies.wording import shown

Correction = Literal["none", "stashing", "pipemare", "nesterov"]


@dataclass(frozen=True)
class StalePipeline(StageProgram):
    """1F1B without a flush: a stage updates after every backward pass, while later batches are under way.

    Stage k of K keeps at most K - k batches in flight, and at most ``in_flight`` if that is not 0. The gradient of
    batch t, begun with the weights w_{t - tau}, changes the weights w_t:

        w_{t+1} = w_t - lr g_t,    tau = min(K - k, in_flight) - 1 updates late (fewer for the first tau batches)

    g_t has the activations of the forward pass, and, by ``correction``, in the backward pass

        none       the weights w_t
        stashing   the weights w_{t - tau} of the forward pass
        pipemare   u = w_t - tau d_t, where d averages the steps, d_{t+1} = c d_t + (1 - c) (w_{t+1} - w_t) with
                   c = decay^(1 / tau); and lr / tau^(1 - min(t / anneal_steps, 1)) instead of lr
        nesterov   the weights of the forward pass; around the optimizer's step s_t = -lr g_t,
                   v_{t+1} = p v_t + (1 - p) s_t,    w_{t+1} = w_t + (1 - p) s_t + p v_{t+1}
                   with p = m + tau (M - m) / K

    where m is ``momentum``, that of a stage without delay, and M ``max_momentum``, which a long pipeline's first stage
    comes near. On a stage without delay the first three are back-propagation; with in_flight = 1, all stages are.

    Stable with "none" and "stashing" at curvature L: lr L <= 2 sin(pi / (4 tau + 2)), so about pi / (2 tau + 1).
    Cost: batch x width numbers over each boundary forward, and as many backward; nobody waits once the pipeline is
    full. Copies of the weights: none 1, pipemare 3, and with tau > 0 stashing tau + 2, nesterov tau + 4.
    ``stage.staleness``: updates between a batch's forward pass and its own update -> batches.

    References: PipeDream, Narayanan et al. 2019 (stashing). PipeMare, Yang et al. (arXiv 1910.05124): the backward
    pass's weights are current, so its other delay is 0; decay = exp(-2), our choice, gives d about the mean age of
    the last tau steps. Nesterov: Ajanthan et al. (arXiv 2505.01099): damping the step of any optimizer is our form of
    it; give it one without momentum. NAdam with stashed weights is "stashing" with that optimizer. The equations of
    the last two are our reading and were not compared with the papers' text.
    """

    correction: Correction = "stashing"
    in_flight: int = 0
    anneal_steps: int = 1000
    decay: float = 0.135
    momentum: float = 0.9
    max_momentum: float = 0.99

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.correction not in get_args(Correction):
            raise ValueError(
                f"correction = {shown(self.correction)} must be one of {', '.join(get_args(Correction))}"
            )
        if self.in_flight < 0:
            raise ValueError(f"in_flight = {self.in_flight} must not be negative; 0 is K - k on stage k of K")
        if self.anneal_steps < 1:
            raise ValueError(
                f"anneal_steps = {self.anneal_steps} must be at least 1; 1 is next to no annealing"
            )
        if not 0 < self.decay < 1:
            raise ValueError(f"decay = {self.decay} must be between 0 and 1; 0.135 is usual")
        if not 0 <= self.momentum <= self.max_momentum < 1:
            raise ValueError(
                f"momentum = {self.momentum} and max_momentum = {self.max_momentum} must be ascending in [0, 1); "
                "0.9 and 0.99 are usual"
            )

    def delay(self, stage: Stage) -> int:
        """tau: the updates between a batch's forward and backward pass once the pipeline is full."""
        return min(stage.count - stage.index, self.in_flight or stage.count) - 1

    def weights(self, stage: Stage) -> CurrentWeights:
        """What the correction does on this stage."""
        tau = self.delay(stage)
        if self.correction == "nesterov":
            m = self.momentum + tau * (self.max_momentum - self.momentum) / stage.count
            return LookAhead(stage, tau, m)
        if self.correction == "stashing":
            return StashedWeights(stage, tau)
        if self.correction == "pipemare" and tau:
            return PipeMare(stage, tau, self.anneal_steps, self.decay)
        return CurrentWeights(stage, tau)

    def run(self, stage: Stage) -> Program:
        """The stage's program. Its order is fixed, whatever anything costs, and so are the weights."""
        weights, tau = self.weights(stage), self.delay(stage)
        under_way: deque[tuple[StalePass, int]] = deque()  # and the updates made before its forward pass
        updates = 0
        for begun in range(stage.steps + tau):
            if begun < stage.steps:
                x = stage.inputs(begun) if stage.first else (yield Recv(stage.from_previous(ACTIVATIONS)))
                stale = yield Compute("forward", weights.forward, x, tag=begun)
                under_way.append((stale, updates))
                if not stage.last:
                    yield Send(stage.to_next(ACTIVATIONS), stale.kept.y)
            if begun >= tau:
                t = begun - tau
                stale, before = under_way.popleft()
                dy = None if stage.last else (yield Recv(stage.from_next(GRADIENTS)))
                dx = yield Compute("backward", weights.backward, t, stale, dy, tag=t)
                if not stage.first:
                    yield Send(stage.to_previous(GRADIENTS), dx)
                yield from weights.learn(t)
                stage.staleness[updates - before] += 1
                updates += 1
                yield Done(t)
