"""What stages draw: a batch of a worker and a step, of the samples that it was dealt or of its stretch of a text."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.problems.capabilities import BatchSize, Draw, Made
from decentral.problems.data.batches import EpochBatches
from decentral.problems.data.text import Text, text_batches, text_windows


def of_shards(made: Made, seed: int, batch_size: BatchSize) -> Draw:
    """Batches without replacement of each worker's own samples."""
    shards = [torch.from_numpy(shard) for shard in made.shards]
    workers, total, draws = len(shards), len(made.dataset.train_y), None
    if batch_size != "full":
        draws = EpochBatches(list(map(len, shards)), list(range(workers)), batch_size, seed)

    def batch(worker: int, t: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        shard = shards[worker]
        if draws is not None:
            shard = shard[torch.from_numpy(draws.at(t)[worker])]
        elif len(shard) == total:  # all, in their order
            return x, y
        shard = shard.to(y.device)
        return x[shard], y[shard]

    return batch


def of_stretches(text: Text, context: int, workers: int, seed: int, batch_size: BatchSize) -> Draw:
    """Windows anywhere in each worker's stretch of the text, all of one length."""
    length = len(text.train) // workers
    stretches = [text.train[i * length : (i + 1) * length] for i in range(workers)]
    whole = [text_windows(stretch, context) for stretch in stretches]
    if batch_size != "full":
        draws = [text_batches(own, context, batch_size, seed, i) for i, own in enumerate(stretches)]

    def batch(worker: int, t: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        inputs, labels = whole[worker] if batch_size == "full" else draws[worker](t)
        return inputs.to(x.device), labels.to(y.device)

    return batch
