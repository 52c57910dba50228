"""Where a layer-parallel run's batches come from, and what it is measured on: labelled examples, or a text.

Examples are dealt to the workers as ``[problem] partition`` says; of a text each worker has a stretch of equal length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from decentral.problems.data import load, load_text
from decentral.problems.data.batches import EpochBatches
from decentral.problems.data.text import text_batches, text_windows
from decentral.problems.model_objective import deal

if TYPE_CHECKING:
    from decentral.runs.sections.stages import StageConfig

Batch = tuple[Tensor, Tensor]


class Samples:
    """``batch(worker, t)``: inputs and labels of step t, a function of the seed, the worker and t.

    ``train``, ``test``: (inputs, labels) to measure on. ``epoch_samples``: how many make an epoch. ``step_samples``:
    of all workers, in a step. ``module``: the model, initialised from the seed.
    """

    def __init__(self, config: StageConfig, device: torch.device) -> None:
        dtype = torch.float64 if config.train.dtype == "float64" else torch.float32
        make = _text if hasattr(config.problem, "text") else _examples
        self.module, self.classes, train, test, draw, self.step_samples = make(config)
        self.module.to(device, dtype)
        self.train, self.test = (_placed(part, device, dtype) for part in (train, test))
        self.epoch_samples, self.device = len(train[1]), device

        def batch(worker: int, t: int) -> Batch:
            return draw(worker, t, *self.train)

        # the stages of a pipeline are at different steps
        self.batch = functools.lru_cache(maxsize=16 * config.workers)(batch)

    @property
    def example(self) -> Tensor:
        """One input, without the axis of the batch."""
        inputs, _ = self.train
        return inputs[0]


Draw = Callable[[int, int, Tensor, Tensor], Batch]
"""(worker, step, all inputs, all labels) -> its batch."""
Made = tuple[nn.Module, int, Batch, Batch, Draw, int]


def _placed(part: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    x, y = part
    return x.to(device, dtype if x.is_floating_point() else None), y.to(device)


def _examples(config: StageConfig) -> Made:
    problem, seed = config.problem, config.seed
    data = load(problem.data, problem.data_root or None)
    shards = [torch.from_numpy(shard) for shard in deal(problem, data, config.workers, seed)]
    size, total = config.train.batch_size, len(data.train_y)
    step, draws = total, None
    if size != "full":
        step = size * config.workers
        draws = EpochBatches(list(map(len, shards)), list(range(config.workers)), size, seed)

    def batch(worker: int, t: int, x: Tensor, y: Tensor) -> Batch:
        shard = shards[worker]
        if draws is not None:
            shard = shard[torch.from_numpy(draws.at(t)[worker])]
        elif len(shard) == total:  # all, in their order
            return x, y
        shard = shard.to(y.device)
        return x[shard], y[shard]

    train, test = (data.train_x, data.train_y), (data.test_x, data.test_y)
    return problem.model(data, seed), data.classes, train, test, batch, step


def _text(config: StageConfig) -> Made:
    problem, seed, size = config.problem, config.seed, config.train.batch_size
    text = load_text(problem.text, problem.data_root or None)
    train, test = (text_windows(part, problem.context) for part in (text.train, text.validation))
    length = len(text.train) // config.workers
    stretches = [text.train[i * length : (i + 1) * length] for i in range(config.workers)]
    whole = [text_windows(stretch, problem.context) for stretch in stretches]
    if size != "full":
        draws = [text_batches(own, problem.context, size, seed, i) for i, own in enumerate(stretches)]

    def batch(worker: int, t: int, x: Tensor, y: Tensor) -> Batch:
        inputs, labels = whole[worker] if size == "full" else draws[worker](t)
        return inputs.to(x.device), labels.to(y.device)

    step = sum(len(inputs) for inputs, _ in whole) if size == "full" else size * config.workers
    return problem.model(text, seed), len(text.characters), train, test, batch, step
