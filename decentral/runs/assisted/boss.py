"""The Boss: it trains on batches that come, and tells the Assistant what it found of each. It never looks behind.

Reference: Zhang, Yu and Dhillon 2019, arXiv:1905.03381 (AutoAssist).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from decentral.optimizers.clipping import clipped
from decentral.problems.assistants.assistant import Assistant, Batch
from decentral.problems.assistants.running_mean import RunningMean
from decentral.runs.divergence import blown_up, loss_limit
from decentral.runtime.requests import Channel, Compute, Done, Program, Recv, Send
from decentral.runtime.trace import payload_bytes

if TYPE_CHECKING:
    from decentral.optimizers.rule import Rule
    from decentral.problems.model_objective import ModelObjective

BOSS, ASSISTANT = 0, 1
BATCHES = Channel(ASSISTANT, BOSS, "batches")
REPORTS = Channel(BOSS, ASSISTANT, "reports")
STOP = None
"""A report that ends the Assistant early."""


class Boss:
    """Program 0: ``rounds`` steps of ``rule``, which has its weight decay, from the objective's first model.

    ``lr(t)``: the learning rate at t, which counts steps, or with ``by_scanned`` batches' worth of samples scanned.
    ``clip_norm``: what gradients are cut to; 0 is without.
    ``x`` (1, d). ``t``: steps so far. Of the batches used so far, all: ``scanned``, samples looked at;
    ``assistant_flops`` and ``assistant_steps``, the Assistant's when it sent the last of them; ``received``, their
    bytes; ``staleness``: own steps that the Assistant had not heard of when it sent one -> how often.
    ``batch_loss``: of the last. ``trouble``: why it ended early.
    """

    def __init__(
        self, objective: ModelObjective, assistant: Assistant, rule: Rule, rounds: int,
        lr: Callable[[int], float], clip_norm: float = 0.0,
    ) -> None:  # fmt: skip
        self.objective, self.assistant, self.rule = objective, assistant, rule
        self.rounds, self.lr, self.clip_norm = rounds, lr, clip_norm
        self.by_scanned = assistant.pace == "scanned"
        self.x = objective.start()[None].clone()
        self.state = rule.init(self.x, objective.layout)
        self.mean = RunningMean()
        self.t = self.scanned = self.assistant_steps = self.received = 0
        self.assistant_flops, self.batch_loss = 0.0, float("nan")
        self.staleness: Counter[int] = Counter()
        self.trouble = ""
        self._limit = float("inf")
        self._logits: Tensor | None = None
        objective.evaluation.module.register_forward_hook(self._seen)

    def run(self) -> Program:
        """The program."""
        while self.t < self.rounds and not self.trouble:
            rows, self.scanned, self.assistant_flops, self.assistant_steps, heard = yield Recv(BATCHES)
            self.received += payload_bytes(rows)
            self.staleness[self.t - heard] += 1
            told = yield Compute("step", self.step, rows, tag=self.t)
            self.t += 1
            yield Send(REPORTS, told)
            yield Done(self.t)
        if self.trouble:
            yield Send(REPORTS, STOP)

    def step(self, rows: Tensor) -> Tensor:
        """A step on the mean loss of the samples ``rows`` (B,); what the Assistant is told of them."""
        objective, size = self.objective, len(rows)
        labels = objective.train_y[rows]
        gradient = objective.gradient_of(
            self.x, objective.train_x.index_select(0, rows)[None], labels[None], self.t
        )
        if self.clip_norm:
            gradient = clipped(gradient, self.clip_norm)
        blocks = [g for _, g in gradient]
        g = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        assert self._logits is not None
        losses = objective.loss(self._logits, labels, reduction="none")
        self.batch_loss = float(objective.losses[0])
        if not self.t:
            self._limit = loss_limit(self.batch_loss)
        if not self.batch_loss <= self._limit:  # catches NaN too
            self.trouble = blown_up(self.t, BOSS, self.batch_loss)
        lr = self.lr((self.scanned - size) // size if self.by_scanned else self.t)
        if self.rule.hears:
            self.state = self.rule.heard(self.state, objective.losses)
        self.state = self.rule.step_(self.x, self.state, g, objective.layout, lr)
        mean = self.mean.after(float(losses.sum()), size)
        return self.assistant.tell(Batch(losses, self._logits.argmax(-1) == labels, mean, self.x))

    def _seen(self, module: Any, inputs: Any, logits: Tensor) -> None:
        """The logits of the newest pass: the gradient's own, so that a loss a sample costs no other."""
        del module, inputs
        self._logits = logits.detach()
