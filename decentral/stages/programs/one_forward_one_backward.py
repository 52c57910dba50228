"""1F1B: a stage alternates between forward and backward as soon as the first gradient can have come."""

from __future__ import annotations

from dataclasses import dataclass

from decentral.runtime import Program
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import check_parts, pipelined
from decentral.stages.stage import Stage
from topologies.settings import plain_settings


@dataclass(frozen=True)
class OneForwardOneBackward(StageProgram):
    """Back-propagation with ``micro_batches`` m; stage k keeps at most K - k passes instead of GPipe's m.

    Bubble with K stages of equal cost: (K - 1) / (m + K - 1) of the time, as GPipe's.
    Reference: Narayanan et al. 2019 (PipeDream), with a flush after each step.
    """

    micro_batches: int = 4

    def __post_init__(self) -> None:
        plain_settings(self)
        check_parts(self.micro_batches)

    def run(self, stage: Stage) -> Program:
        """The stage's program."""
        m = self.micro_batches
        ahead = min(stage.count - stage.index - 1, m)
        step = [("forward", i) for i in range(ahead)]
        for i in range(m - ahead):
            step += [("forward", ahead + i), ("backward", i)]
        step += [("backward", i) for i in range(m - ahead, m)]
        return pipelined(stage, m, step)
