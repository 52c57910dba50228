"""Training the last layers only: the baseline that says what the others' lower layers have learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from decentral.runtime import Compute, Done, Program, Recv, Send
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import ACTIVATIONS
from decentral.stages.stage import Stage
from topologies.settings import plain_settings


@dataclass(frozen=True)
class LastLayers(StageProgram):
    """The network's last ``trained`` layers learn, its head being the first of them; the others stay as they began.

    Cost: batch x width numbers over each boundary, forward only.
    """

    trained: int = 1

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.trained < 1:
            raise ValueError(f"trained = {self.trained} must be at least 1, the head")

    def check(self, spans: Sequence[range], layers: Sequence[nn.Module]) -> None:
        """Refuse more layers than the last stage has."""
        most = len(spans[-1]) + 1
        if self.trained > most:
            raise ValueError(
                f"trained = {self.trained} is more than the {most} layers of the last stage, the head counted; "
                f"cut at layer {len(layers) - self.trained + 1} or before"
            )

    def run(self, stage: Stage) -> Program:
        """The stage's program."""
        for i, layer in stage.layers.items():
            layer.requires_grad_(i > stage.depth - self.trained)
        for t in range(stage.steps):
            x = stage.inputs(t) if stage.first else (yield Recv(stage.from_previous(ACTIVATIONS)))
            kept = yield Compute("forward", stage.forward, x, False, tag=t)
            if stage.last:
                yield Compute("backward", stage.backward_from_loss, kept, stage.labels(t), t, tag=t)
                yield from stage.learn(t)
            else:
                yield Send(stage.to_next(ACTIVATIONS), kept.y)
            yield Done(t)
