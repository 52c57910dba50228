"""A model and the workers' samples as an objective, with the gradient oracle."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from decentral.comm.layout import Layout
from decentral.problems.chunks import chunk_of
from decentral.problems.data.batches import EpochBatches
from decentral.problems.evaluation import Evaluation, placed
from decentral.problems.losses import Loss, cross_entropy
from decentral.problems.models.conversion import converted
from decentral.problems.models.tried import TRUSTED, Tried
from decentral.problems.models.worker_state import stacked_buffers
from decentral.problems.objective import one_worker
from decentral.problems.oracles import BatchedOracle, Batches, Blocks, LoopOracle, choose_oracle
from decentral.problems.statistics import of_batch_norm, renew_statistics
from topologies.streams import stream

if TYPE_CHECKING:
    from decentral.comm import Communicator
    from decentral.problems.capabilities import BatchSize
    from decentral.problems.data.dataset import Dataset
    from decentral.problems.objective import Place


class ModelObjective:
    """Mean ``loss`` of the hosted workers' samples; see :class:`decentral.problems.objective.Objective`.

    ``shards``: the samples of the training part that each of the n workers owns. Labels are (N,), or (N, T) of tokens.
    ``tried``: what a trial of the module has found, if it is not one of this package's. ``judged_by``: who measures.
    """

    judged_by: ClassVar[type[Evaluation]] = Evaluation

    def __init__(
        self,
        module: nn.Module,
        dataset: Dataset,
        shards: list[NDArray[np.int64]],
        place: Place,
        tried: Tried = TRUSTED,
        loss: Loss = cross_entropy,
    ) -> None:
        self.place, self.loss = place, loss
        self.owned, self.classes = np.concatenate(shards), dataset.classes
        self.epoch_samples = len(self.owned)
        self.shards = [shards[worker] for worker in place.rows]
        self.train_x = placed(dataset.train_x, place)
        self.train_y = dataset.train_y.to(place.device)
        module = converted(module, place.device, place.dtype)
        self.layout = Layout.of(module)
        self.d = self.layout.d
        self._start = self.layout.flatten(module)
        h = len(place.rows)
        self.buffers = stacked_buffers(module, h)
        # full batches of unequal size are padded for vmap, which would enter batch norm's statistics
        wish = "loop" if place.batch_size == "full" and self.buffers else place.oracle
        self._oracle, note = choose_oracle(
            wish, module, self.layout, self.buffers, place.rows, place.seed, tried, loss
        )
        self.oracle = self._oracle.name
        self.draws = tried.draws
        self.notes = [*([note] if note else []), *tried.notes]
        self.losses = self._start.new_zeros(h)
        self.evaluation = self.judged_by(module, self.layout, dataset, shards, place, tried, loss)
        self.batches: EpochBatches | None = None
        self._full: tuple[list[Tensor], list[Tensor]] | None = None
        if place.batch_size == "full":
            self._full = ([self.train_x[s] for s in self.shards], [self.train_y[s] for s in self.shards])
        else:
            self._deal(place.batch_size)
        self._bound(place.batch_size)
        self.optimum: Tensor | None = None

    @property
    def chunk(self) -> int | None:
        """Workers whose gradients are batched at once; None where it is all of them, or they are not batched."""
        oracle = self._oracle
        chunk = oracle.chunk if isinstance(oracle, BatchedOracle) else None
        return chunk if chunk is not None and chunk < len(self.shards) else None

    def _bound(self, size: BatchSize) -> None:
        """Choose how many workers' gradients are batched at once, of batches of this size."""
        oracle = self._oracle
        if isinstance(oracle, BatchedOracle):
            some = slice(max(map(len, self.shards)) if size == "full" else size)
            oracle.chunk = chunk_of(
                self.place.chunk, self.evaluation.module, self.layout, self.buffers,
                self.train_x[some], self.train_y[some], self.loss, len(self.shards),
            )  # fmt: skip

    def _deal(self, batch_size: int) -> None:
        """Batches of so many samples of each shard."""
        sizes = [len(s) for s in self.shards]
        self.batches = EpochBatches(sizes, list(self.place.rows), batch_size, self.place.seed)
        if all(shard is self.owned for shard in self.shards):
            self._table = torch.from_numpy(self.owned).expand(len(sizes), -1)
            return
        self._table = torch.zeros(len(sizes), max(sizes), dtype=torch.int64)
        for row, shard in enumerate(self.shards):
            self._table[row, : len(shard)] = torch.from_numpy(shard)

    def start(self) -> Tensor:
        """The model as it was initialised, (d,)."""
        return self._start

    def gradient(self, x: Tensor, t: int) -> Blocks:
        """Gradients of the mean loss over each worker's batch of round t, or over all its samples."""
        inputs, labels = self._full or self._batch(t)
        return self.gradient_of(x, inputs, labels, t)

    def gradient_of(self, x: Tensor, inputs: Batches, labels: Batches, t: int) -> Blocks:
        """The same over these batches: inputs and labels of each hosted worker."""
        self.losses, blocks = self._oracle.gradient(x, inputs, labels, t)
        return blocks

    def _batch(self, t: int) -> tuple[Tensor, Tensor]:
        assert self.batches is not None
        chosen = self._table.gather(1, torch.from_numpy(self.batches.at(t))).to(self.train_y.device)
        h, batch = chosen.shape
        inputs = self.train_x.index_select(0, chosen.reshape(-1))
        return inputs.view(h, batch, *inputs.shape[1:]), self.train_y[chosen]

    def grow(self, batch_size: int, t: int) -> None:
        """From round t on batches of this size."""
        assert self.batches is not None
        self.batches.grow(batch_size, t)
        self._bound(batch_size)

    def evaluate(self, mean: Tensor, x: Tensor, comm: Communicator, last: bool) -> dict[str, float]:
        """Losses and accuracies of the averaged model, accuracies of the workers' models."""
        return self.evaluation.measure(mean, x, self.buffers, comm, last)

    def alone(self, row: int) -> ModelObjective:
        """See :class:`decentral.problems.objective.Objective`; always by the loop, which wins for one worker."""
        one = copy.copy(self)
        one.place = one_worker(self.place, row)
        one.shards, one.losses = self.shards[row : row + 1], self.losses[row : row + 1]
        one.buffers = {name: value[row : row + 1].clone() for name, value in self.buffers.items()}
        one._oracle = LoopOracle(
            self.evaluation.module,
            self.layout,
            one.buffers,
            one.place.rows,
            one.place.seed,
            self.draws,
            self.loss,
        )
        if self._full is not None:
            one._full = (self._full[0][row : row + 1], self._full[1][row : row + 1])
        if self.batches is not None:
            one.batches, one._table = self.batches.alone(row), self._table[row : row + 1]
        return one

    def redrawn(self, batch_size: int, of_all: bool) -> ModelObjective:
        """See :class:`decentral.problems.objective.Objective`; data, model and buffers are shared with this one."""
        one = copy.copy(self)
        one.place = replace(self.place, batch_size=batch_size)
        if of_all:
            one.shards = [self.owned] * len(self.shards)
        one._full, one._oracle = None, copy.copy(self._oracle)
        one._deal(batch_size)
        one._bound(batch_size)
        return one

    def renew_statistics(self, x: Tensor, batch_size: int) -> int:
        """See :class:`decentral.problems.objective.Objective`. What the model draws has a stream of its own."""
        module, count = self.evaluation.module, self.epoch_samples // batch_size
        if not of_batch_norm(module):
            return 0
        order = torch.from_numpy(stream(self.place.seed, "statistics").permutation(self.owned))
        chosen = order[: count * batch_size].view(count, batch_size).to(self.train_y.device)
        generators = self.evaluation.generators
        with generators.kept():
            generators.seed(self.place.seed, "statistics")
            batches = (self.train_x[batch] for batch in chosen)
            renew_statistics(module, self.layout.views(x[0].clone()), self.buffers, batches)
        return count

    def record_cost_rounds(self) -> float:
        """By the number of samples that go through models."""
        return self.evaluation.rounds_worth(self.samples(1))

    def samples(self, rounds: int) -> int:
        """Seen by all workers."""
        if self.batches is None:
            return rounds * self.epoch_samples
        return self.batches.drawn(rounds) * self.place.workers

    def epoch(self, rounds: int) -> float:
        """Passes over the whole training set."""
        return self.samples(rounds) / self.epoch_samples
