"""Measuring models: the averaged one on training and test data, every worker's own on test data.

Training loss and accuracy, and the workers' accuracies, are taken over at most ``eval_samples`` samples, always the
same ones; so are the test loss and accuracy of the averaged model, but for the last record of a run, which is over all
test data.
Of a text a sample is a window: a loss is the mean of its characters', an accuracy the share of them predicted right.

The averaged model has the averaged parameters and the averaged floating-point buffers (batch norm's running mean and
variance; its integer counter is worker 0's). A worker's model has its own buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from decentral.comm.layout import Layout
from decentral.problems.losses import Loss, cross_entropy
from decentral.problems.models.draws import Generators
from decentral.problems.models.tried import TRUSTED, Tried
from decentral.problems.models.worker_state import standing_for
from topologies.streams import stream

if TYPE_CHECKING:
    from decentral.comm import Communicator
    from decentral.problems.data.dataset import Dataset
    from decentral.problems.objective import Place

T = TypeVar("T")
_CHUNK = 1000  # samples that go through the model at once


def placed(inputs: Tensor, place: Place) -> Tensor:
    """Inputs where and in the numbers that the run has them; tokens remain integers."""
    return inputs.to(place.device, place.dtype if inputs.is_floating_point() else None)


class Evaluation:
    """Test data, and a fixed subset of the training data with the weights that make its loss f's.

    ``last``: the averaged model (d,) and its buffers, on rank 0 after the last record of a run.
    """

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        dataset: Dataset,
        shards: list[NDArray[np.int64]],
        place: Place,
        tried: Tried = TRUSTED,
        loss: Loss = cross_entropy,
    ) -> None:
        self.module, self.layout, self.place, self.loss = module, layout, place, loss
        self.stateless, self.generators = tried.stateless, Generators(tried.draws, place.device)
        order = stream(0, "eval", dataset.name).permutation(len(dataset.test_y))
        self.test_x = placed(dataset.test_x[order], place)
        self.test_y = dataset.test_y[order].to(place.device)
        self.some = slice(0, place.eval_samples)
        self.some_test = self.test_x[self.some], self.test_y[self.some]
        chosen = np.concatenate(shards)
        weights = np.concatenate([self.shares(dataset, shard) for shard in shards])
        if len(chosen) > place.eval_samples:
            draw = stream(place.seed, "eval").permutation(len(chosen))[: place.eval_samples]
            chosen, weights = chosen[draw], weights[draw]
        self.train_x = placed(dataset.train_x[chosen], place)
        self.train_y = dataset.train_y[chosen].to(place.device)
        self.weights = torch.from_numpy(weights / weights.sum()).to(place.device)
        self.last: tuple[Tensor, dict[str, Tensor]] | None = None

    @staticmethod
    def shares(dataset: Dataset, shard: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each of a worker's samples, what it is of the worker's mean loss."""
        del dataset
        return np.full(len(shard), 1 / len(shard))

    def rounds_worth(self, round_samples: float) -> float:
        """Rounds of ``round_samples`` samples in all whose work (forward and backward: thrice) is a record's."""
        test, n = len(self.test_y[self.some]), self.place.workers
        models = 1 if n == 1 else n + 1  # the only worker's is the averaged one
        return (len(self.train_y) + models * test) / (3 * round_samples)

    @torch.no_grad()
    def measure(
        self, mean: Tensor, x: Tensor, buffers: dict[str, Tensor], comm: Communicator, last: bool
    ) -> dict[str, float]:
        """Metrics; those of the averaged model are computed on rank 0 only, and NaN elsewhere."""
        self.module.eval()
        with self.generators.kept():
            values = self._measured(mean, x, buffers, comm, last)
        self.module.train()
        return values

    def _measured(
        self, mean: Tensor, x: Tensor, buffers: dict[str, Tensor], comm: Communicator, last: bool
    ) -> dict[str, float]:
        averaged = average(buffers, comm)
        right_of = [
            self.count_right(self.place.rows[row], x[row], _row(buffers, row), *self.some_test)
            for row in range(x.shape[0] if comm.n > 1 else 0)
        ]
        values = dict.fromkeys(("train_loss", "train_accuracy", "test_loss", "test_accuracy"), float("nan"))
        if comm.rank == 0:
            self.last = (mean[0], averaged) if last else None
            train, right = self._judged("train", mean[0], averaged, self.train_x, self.train_y)
            values["train_loss"] = float((train.double() * self.weights).sum())
            values["train_accuracy"] = float((right.double() * self.weights).sum() / self.train_y[:1].numel())
            seen = slice(None) if last else self.some
            test, right = self._judged("test", mean[0], averaged, self.test_x[seen], self.test_y[seen])
            values["test_loss"] = float(test.double().mean())
            values["test_accuracy"] = int(right.sum()) / self.test_y[seen].numel()
            if comm.n == 1:
                right_of = [int(right[self.some].sum())]
        accuracies = comm.observe(np.array(right_of) / self.test_y[self.some].numel())
        return values | {
            "test_accuracy_worker_mean": float(accuracies.mean()),
            "test_accuracy_worker_min": float(accuracies.min()),
        }

    def _judged(
        self, part: str, row: Tensor, buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(N,) each sample's mean loss, and how many of its labels are predicted right."""

        def judge(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            losses = self.loss(logits, y, reduction="none").view(len(y), -1).mean(1)
            return losses, (logits.argmax(-1) == y).view(len(y), -1).sum(1)

        losses, right = zip(*self.each(judge, part, row, buffers, inputs, labels), strict=True)
        return torch.cat(losses), torch.cat(right)

    def count_right(
        self, whose: str | int, row: Tensor, buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor
    ) -> int:
        """How many labels the model (d,) predicts right, in the mode that the module is in."""

        def judge(logits: Tensor, y: Tensor) -> int:
            return int((logits.argmax(-1) == y).sum())

        return sum(self.each(judge, whose, row, buffers, inputs, labels))

    def each(
        self, judge: Callable[[Tensor, Tensor], T], whose: str | int, row: Tensor, buffers: dict[str, Tensor],
        inputs: Tensor, labels: Tensor,
    ) -> list[T]:  # fmt: skip
        """Of each chunk, what its logits and labels give. What a model draws here too is the same in all records."""
        self.generators.seed(self.place.seed, "evaluation", whose)
        parts = chunks(inputs, labels)
        if self.stateless:
            named = self.layout.views(row), buffers
            return [judge(functional_call(self.module, named, (x,)), y) for x, y in parts]
        # copies all: to measure a model is not to change it, whatever it writes to
        with standing_for(self.module, self.layout.views(row.clone()), buffers):
            return [judge(self.module(x.clone()), y) for x, y in parts]


def chunks(inputs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples in parts that go through a model at once."""
    for a in range(0, len(labels), _CHUNK):
        yield inputs[a : a + _CHUNK], labels[a : a + _CHUNK]


def _row(buffers: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row] for name, value in buffers.items()}


def average(buffers: dict[str, Tensor], comm: Communicator) -> dict[str, Tensor]:
    """The averaged model's buffers. Every rank calls it."""
    return {name: _average(value, comm) for name, value in buffers.items()}


def _average(value: Tensor, comm: Communicator) -> Tensor:
    if value.is_complex():
        return torch.view_as_complex(_average(torch.view_as_real(value), comm))
    if not value.is_floating_point() or not value.numel():
        return value[0]
    return comm.observe_mean(value.reshape(value.shape[0], -1)).view(value.shape[1:])
