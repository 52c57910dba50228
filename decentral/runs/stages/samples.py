"""Where a layer-parallel run's batches come from: the samples of the workers, or stretches of a text.

Examples are dealt to the workers as ``[problem] partition`` says; of a text each worker has a stretch of equal length.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from decentral.problems.data.text import load_text, text_batches, text_windows
from decentral.problems.model_objective import ModelObjective
from decentral.runs.place import place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from decentral.runs.stages.config import StageRun

Batch = tuple[Tensor, Tensor]


class Samples:
    """``batch(worker, t)``: inputs and labels of step t, a function of the seed, the worker and t.

    ``objective``: that of all workers, as in rounds: its model, its data, and what is measured.
    """

    def __init__(self, run: StageRun, device: torch.device) -> None:
        self.objective: ModelObjective = run.problem.build(place_of(run, range(run.workers), device))
        draw = _stretches(run, self.objective) if hasattr(run.problem, "text") else self.objective.batch
        # the stages of a pipeline are at different steps
        self.batch = functools.lru_cache(maxsize=16 * run.workers)(draw)

    @property
    def example(self) -> Tensor:
        """One input, without the axis of the batch."""
        return self.objective.train_x[0]


def _stretches(run: StageRun, objective: ModelObjective) -> Callable[[int, int], Batch]:
    """Windows that begin anywhere in the worker's stretch of the text; of full batches all, one after the other."""
    problem: Any = run.problem
    size, n, to = run.train.batch_size, run.workers, objective.train_x.device
    text = load_text(problem.text, problem.data_root or None)
    length = len(text.train) // n
    own = [text.train[i * length : (i + 1) * length] for i in range(n)]
    if size == "full":
        whole = [text_windows(stretch, problem.context) for stretch in own]
        return lambda worker, _: (whole[worker][0].to(to), whole[worker][1].to(to))
    draws = [text_batches(stretch, problem.context, size, run.seed, i) for i, stretch in enumerate(own)]

    def batch(worker: int, t: int) -> Batch:
        inputs, labels = draws[worker](t)
        return inputs.to(to), labels.to(to)

    return batch
