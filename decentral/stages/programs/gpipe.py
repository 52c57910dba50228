"""GPipe: all forward passes of a step's micro-batches, then all backward passes."""

from __future__ import annotations

from dataclasses import dataclass

from decentral.runtime import Program
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import check_parts, pipelined
from decentral.stages.stage import Stage
from topologies.settings import plain_settings


@dataclass(frozen=True)
class GPipe(StageProgram):
    """Back-propagation with a step's batch in ``micro_batches`` m, forward passes first.

    Bubble with K stages of equal cost: (K - 1) / (m + K - 1) of the time. Each stage keeps m passes.
    Reference: Huang et al. 2019 (arXiv 1811.06965).
    """

    micro_batches: int = 4

    def __post_init__(self) -> None:
        plain_settings(self)
        check_parts(self.micro_batches)

    def run(self, stage: Stage) -> Program:
        """The stage's program."""
        parts = range(self.micro_batches)
        step = [("forward", m) for m in parts] + [("backward", m) for m in parts]
        return pipelined(stage, self.micro_batches, step)
