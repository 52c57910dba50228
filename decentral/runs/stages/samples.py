"""Where a layer-parallel run's batches come from, and what it is measured on: the samples of its problem, placed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from decentral.problems.capabilities import Layered
    from decentral.runs.sections.stages import StageConfig

Batch = tuple[Tensor, Tensor]


class Samples:
    """``batch(worker, t)``: inputs and labels of step t, a function of the seed, the worker and t.

    ``train``, ``test``: (inputs, labels) to measure on. ``epoch_samples``: how many make an epoch. ``step_samples``:
    of all workers, in a step. ``module``: the model, initialised from the seed.
    """

    def __init__(self, config: StageConfig, device: torch.device) -> None:
        dtype = torch.float64 if config.train.dtype == "float64" else torch.float32
        problem: Layered = config.problem
        made = problem.made(config.workers, config.seed)
        draw, self.step_samples = problem.batches(made, config.seed, config.train.batch_size)
        data, self.module, self.classes = made.dataset, made.module, made.dataset.classes
        self.module.to(device, dtype)
        self.train = _placed(data.train_x, data.train_y, device, dtype)
        self.test = _placed(data.test_x, data.test_y, device, dtype)
        self.epoch_samples, self.device = len(data.train_y), device

        def batch(worker: int, t: int) -> Batch:
            return draw(worker, t, *self.train)

        # the stages of a pipeline are at different steps
        self.batch = functools.lru_cache(maxsize=16 * config.workers)(batch)

    @property
    def example(self) -> Tensor:
        """One input, without the axis of the batch."""
        inputs, _ = self.train
        return inputs[0]


def _placed(x: Tensor, y: Tensor, device: torch.device, dtype: torch.dtype) -> Batch:
    return x.to(device, dtype if x.is_floating_point() else None), y.to(device)
