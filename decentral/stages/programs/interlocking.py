"""Interlocking back-propagation: each stage learns from a loss a few stages above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from decentral.runtime import Compute, Done, Program, Recv, Send
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import ACTIVATIONS, GRADIENTS
from decentral.stages.stage import Pass, Stage
from topologies.settings import plain_settings


@dataclass(frozen=True)
class Interlocking(StageProgram):
    """Stage k learns from the loss of stage j = min(k + window - 1, K - 1), whose gradient comes down to it:

        w_k <- w_k - lr d/dw_k loss(a_j(x_{j+1}), labels)

    Each stage but the last has a ``head`` a_k, which learns from its own loss. window = 1 is greedy by stages,
    window = K is back-propagation (and heads that nobody needs).

    Cost: batch x width numbers over each boundary forward, and up to window - 1 times as many backward.
    Reference: Gomez et al. 2022 (arXiv 2010.04116), whose components are our stages.
    """

    of_one_loss: ClassVar[bool] = False

    window: int = 2
    head: str = "linear"

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.window < 1:
            raise ValueError(f"window = {self.window} must be at least 1 stage")

    @property
    def local_head(self) -> str:
        """See :class:`StageProgram`."""
        return self.head

    def check(self, spans: Sequence[range], layers: Sequence[nn.Module]) -> None:
        """Refuse a window of more stages than there are."""
        del layers
        if self.window > len(spans):
            raise ValueError(f"window = {self.window} is more than the {len(spans)} stages; use at most that")

    def run(self, stage: Stage) -> Program:
        """The stage's program."""
        k, top = stage.index, stage.count - 1
        teacher = min(k + self.window - 1, top)
        site = _Site(stage, self.head)
        for t in range(stage.steps):
            x = stage.inputs(t) if stage.first else (yield Recv(stage.from_previous(ACTIVATIONS)))
            kept, loss = yield Compute("forward", site.forward, x, t, tag=t)
            if not stage.last:
                yield Send(stage.to_next(ACTIVATIONS), kept.y)
            for j in range(k, teacher + 1):
                dy = None if j == k else (yield Recv(stage.from_next(GRADIENTS)))
                below = k > max(0, j - self.window + 1)  # a stage below learns from this loss
                dx = yield Compute("backward", site.backward, kept, loss, dy, j == teacher, below, tag=t)
                if below:
                    yield Send(stage.to_previous(GRADIENTS), dx)
            yield from stage.learn(t)
            yield Done(t)


class _Site:
    """A stage's head and its passes."""

    def __init__(self, stage: Stage, head: str) -> None:
        self.stage = stage
        self.head = None if stage.last else stage.make_head(head, stage.span.stop - 1)

    def forward(self, x: Tensor, t: int) -> tuple[Pass, Tensor]:
        """The pass, and this stage's own loss of it."""
        stage = self.stage
        kept = stage.forward(x, not stage.first)
        if self.head is None:
            loss = stage.loss(kept.y, stage.labels(t))
            stage.note_loss(t, loss)
            return kept, loss
        loss = self.head.loss(kept.y, stage.labels(t), lambda: stage.inputs(t))
        return kept, loss

    def backward(
        self, kept: Pass, loss: Tensor, dy: Tensor | None, learns: bool, below: bool
    ) -> Tensor | None:
        """The gradient at the input, if it is needed below; the stage's ``grad`` too, if it learns from this loss.

        ``dy``: the gradient at the stage's output, or None where the loss is its own. The graph stays, for the
        losses above.
        """
        layers = list(self.stage.modules.parameters()) if learns else []
        heads = list(self.head.parameters()) if dy is None and self.head is not None else []
        wanted: list[Any] = [*layers, *heads, *([kept.x] if below else [])]
        if not wanted:
            return None
        root = loss if dy is None else kept.y
        found = torch.autograd.grad(root, wanted, dy, retain_graph=not learns)
        for p, g in zip([*layers, *heads], found, strict=False):
            p.grad = g
        return found[-1] if below else None
