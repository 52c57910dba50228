"""What a layer-parallel run trains on, and is measured on: the samples of the workers, as in rounds."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from decentral.problems.model_objective import ModelObjective
from decentral.runs.place import place_of

if TYPE_CHECKING:
    from decentral.problems.capabilities import Layered
    from decentral.runs.stages.config import StageRun

Batch = tuple[Tensor, Tensor]


class Samples:
    """``batch(worker, t)``: inputs and labels of step t, a function of the seed, the worker and t.

    ``objective``: that of all workers: its model, its data, and what is measured.
    """

    def __init__(self, run: StageRun, device: torch.device) -> None:
        problem: Layered = run.problem
        objective: Any = problem.build(place_of(run, range(run.workers), device))
        self.objective: ModelObjective = objective
        draw = problem.batches(problem.made(run.workers, run.seed), run.seed, run.train.batch_size)

        def batch(worker: int, t: int) -> Batch:
            return draw(worker, t, objective.train_x, objective.train_y)

        # the stages of a pipeline are at different steps
        self.batch = functools.lru_cache(maxsize=16 * run.workers)(batch)

    @property
    def example(self) -> Tensor:
        """One input, without the axis of the batch."""
        return self.objective.train_x[0]
