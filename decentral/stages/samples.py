"""Where a layer-parallel run's batches come from, and what it is measured on: labelled examples, or a text."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from decentral.problems.batches import EpochBatches
from decentral.problems.datasets import load
from decentral.problems.text import load_text, text_batches, text_windows

if TYPE_CHECKING:
    from decentral.stage_config import StageConfig


class Samples:
    """``batch(t)``: inputs and labels of step t, a function of the seed and t.

    ``train``, ``test``: (inputs, labels) to measure on. ``epoch_samples``: how many make an epoch.
    ``module``: the model, initialised from the seed.
    """

    def __init__(self, config: StageConfig, device: torch.device) -> None:
        dtype = torch.float64 if config.train.dtype == "float64" else torch.float32
        make = _text if hasattr(config.problem, "text") else _examples
        self.module, self.classes, train, test, draw, self.batch_size = make(config)
        self.module.to(device, dtype)
        self.train, self.test = (_placed(part, device, dtype) for part in (train, test))
        self.epoch_samples, self.device = len(train[1]), device
        # the stages of a pipeline are at different steps
        self.batch = functools.lru_cache(maxsize=16)(lambda t: draw(t, *self.train))

    @property
    def example(self) -> Tensor:
        """One input, without the axis of the batch."""
        inputs, _ = self.train
        return inputs[0]


def _placed(part: tuple[Tensor, Tensor], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, y = part
    return x.to(device, dtype if x.is_floating_point() else None), y.to(device)


def _examples(config: StageConfig) -> tuple[nn.Module, int, Any, Any, Any, int]:
    problem, seed = config.problem, config.seed
    data = load(problem.data, problem.data_root or None)
    total = len(data.train_y)
    size = total if config.train.batch_size == "full" else config.train.batch_size
    draw = EpochBatches([total], [0], size, seed)

    def batch(t: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if size == total:  # all, in their order
            return x, y
        chosen = torch.from_numpy(draw.at(t)[0]).to(y.device)
        return x[chosen], y[chosen]

    train, test = (data.train_x, data.train_y), (data.test_x, data.test_y)
    return problem.model(data, seed), data.classes, train, test, batch, size


def _text(config: StageConfig) -> tuple[nn.Module, int, Any, Any, Any, int]:
    problem, seed = config.problem, config.seed
    text = load_text(problem.text, problem.data_root or None)
    train, test = (text_windows(part, problem.context) for part in (text.train, text.validation))
    size = len(train[0]) if config.train.batch_size == "full" else config.train.batch_size
    draw = text_batches(text.train, problem.context, size, seed)

    def batch(t: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if size == len(x):
            return x, y
        inputs, labels = draw(t)
        return inputs.to(x.device), labels.to(x.device)

    return problem.model(text, seed), len(text.characters), train, test, batch, size
