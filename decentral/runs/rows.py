"""The memory of the rows (h, d) that a rank hosts, told before they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from decentral.algorithms.state import tensors_of
from decentral.comm.local import LocalComm
from decentral.problems.capabilities import Sized
from decentral.problems.classification import Module
from decentral.problems.sizes import refuse_models, refuse_size
from decentral.runs.place import device_of
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.algorithms.traits import Method
    from decentral.runs.kind import Run


def refuse_rows(run: Run, ranks: int, kept: int = 0) -> None:
    """Raise UserError where the models of a rank's workers, ``kept`` vectors beside each, or a batch have no room.

    Rows on a GPU are not asked for, nor is a model of one's own, which would have to be built for it.
    """
    problem, train = run.problem, run.train
    hosted = max(1, run.workers // ranks)
    if train.batch_size != "full":
        refuse_batch(run, ranks, train.batch_size, "train.batch_size")
    if isinstance(problem, Module) or not isinstance(problem, Sized) or _on_gpu(train.device):
        return
    itemsize = 8 if train.dtype == "float64" else 4
    refuse_models(problem, hosted, itemsize, 1 + kept)


def refuse_batch(run: Run, ranks: int, size: int, key: str) -> None:
    """Raise UserError where batches of a rank's workers have no room, of the size that ``key`` gives."""
    # which samples they are, 8 bytes each, and at least a number of each
    refuse_size(12.0 * max(1, run.workers // ranks) * size, f"{key} = {shown(size)}", "use smaller batches")


def vectors_kept(method: Method[Any]) -> int:
    """Vectors of d numbers that the method keeps beside a worker's model, as two workers have them."""
    x = torch.zeros(2, 3)
    try:
        state = method.init(x, LocalComm(np.full((2, 2), 0.5)))
    except ValueError:  # it needs another graph
        return 0
    return sum(tensor.shape == x.shape for tensor in tensors_of(state))


def _on_gpu(wish: str) -> bool:
    return wish != "cpu" and torch.cuda.is_available() and device_of(wish, 0).type != "cpu"
