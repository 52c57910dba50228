"""What stages draw: a batch of a worker and a step, of the samples that it was dealt or of its stretch of a text."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.problems.capabilities import BatchSize, Draw, Made
from decentral.problems.data.batches import EpochBatches
from decentral.problems.data.text import Text, text_batches, text_windows


def of_shards(made: Made, seed: int, batch_size: BatchSize) -> tuple[Draw, int]:
    """Batches without replacement of each worker's own samples, and the samples of a step of all workers."""
    shards = [torch.from_numpy(shard) for shard in made.shards]
    workers, total = len(shards), len(made.dataset.train_y)
    step, draws = total, None
    if batch_size != "full":
        step = batch_size * workers
        draws = EpochBatches(list(map(len, shards)), list(range(workers)), batch_size, seed)

    def batch(worker: int, t: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        shard = shards[worker]
        if draws is not None:
            shard = shard[torch.from_numpy(draws.at(t)[worker])]
        elif len(shard) == total:  # all, in their order
            return x, y
        shard = shard.to(y.device)
        return x[shard], y[shard]

    return batch, step


def of_stretches(
    text: Text, context: int, workers: int, seed: int, batch_size: BatchSize
) -> tuple[Draw, int]:
    """Windows anywhere in each worker's stretch of the text, all of one length; and the windows of a step."""
    length = len(text.train) // workers
    stretches = [text.train[i * length : (i + 1) * length] for i in range(workers)]
    whole = [text_windows(stretch, context) for stretch in stretches]
    if batch_size != "full":
        draws = [text_batches(own, context, batch_size, seed, i) for i, own in enumerate(stretches)]

    def batch(worker: int, t: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        inputs, labels = whole[worker] if batch_size == "full" else draws[worker](t)
        return inputs.to(x.device), labels.to(y.device)

    step = sum(len(inputs) for inputs, _ in whole) if batch_size == "full" else batch_size * workers
    return batch, step
