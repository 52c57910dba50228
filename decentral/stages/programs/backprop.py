"""Back-propagation over stages: one batch at a time, or micro-batches in the order of a pipeline schedule.

The reference for all other programs. Whatever the order of the passes, the gradients of a step's micro-batches are
summed in ``grad`` and one update follows, so every schedule gives the gradients of the whole batch.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from decentral.runtime import Compute, Done, Program, Recv, Request, Send
from decentral.stages.program import StageProgram
from decentral.stages.stage import Pass, Stage

ACTIVATIONS, GRADIENTS = "activations", "gradients"
ONE_BATCH = (("forward", 0), ("backward", 0))


@dataclass(frozen=True)
class BackProp(StageProgram):
    """Forward through all stages, then backward through all, then the update; one stage works at a time.

        x_{k+1} = f_k(x_k; w_k),   g_k = (df_k/dx_k)' g_{k+1},   w_k <- w_k - lr (df_k/dw_k)' g_{k+1}

    Cost: batch x width numbers over each boundary forward, and as many backward.
    """

    def run(self, stage: Stage) -> Program:
        """The stage's program."""
        return pipelined(stage, 1, ONE_BATCH)


def pipelined(stage: Stage, parts: int, order: Sequence[tuple[str, int]]) -> Program:
    """Steps of back-propagation with ``parts`` micro-batches; ``order`` lists a step's (pass, micro-batch)."""
    for t in range(stage.steps):
        yield from backprop_step(stage, t, parts, order)
        yield from stage.learn(t)
        yield Done(t)


def backprop_step(
    stage: Stage, t: int, parts: int = 1, order: Sequence[tuple[str, int]] = ONE_BATCH
) -> Generator[Request, Any, tuple[Pass, Tensor | None]]:
    """Step t, but for the update: the parameters' ``grad`` is that of the mean loss of the whole batch.

    Returns the pass that went backward last, and the gradient at its input.
    """
    kept: dict[int, Pass] = {}
    size = stage.terms(stage.labels(t))
    for direction, m in order:
        if direction == "forward":
            x = stage.inputs(t, m, parts) if stage.first else (yield Recv(stage.from_previous(ACTIVATIONS)))
            kept[m] = yield Compute("forward", stage.forward, x, not stage.first, tag=(t, m))
            if not stage.last:
                yield Send(stage.to_next(ACTIVATIONS), kept[m].y)
            continue
        if stage.last:
            labels = stage.labels(t, m, parts)
            dx = yield Compute(
                "backward",
                stage.backward_from_loss,
                kept[m],
                labels,
                t,
                stage.terms(labels) / size,
                tag=(t, m),
            )
        else:
            dy = yield Recv(stage.from_next(GRADIENTS))
            dx = yield Compute("backward", stage.backward, kept[m], dy, tag=(t, m))
        if not stage.first:
            yield Send(stage.to_previous(GRADIENTS), dx)
        last = kept.pop(m)
    return last, dx


def check_parts(micro_batches: int) -> None:
    """Refuse fewer than one micro-batch."""
    if micro_batches < 1:
        raise ValueError(f"micro_batches = {micro_batches} must be at least 1")
