"""What is measured of every method alike, in float64, whatever the run's own numbers are.

    consensus_sq = (1/n) sum |x_i - xbar|^2
    bias_sq      = (1/n) sum |x_i - x*|^2
    mean_bias_sq = |xbar - x*|^2,      and bias_sq = mean_bias_sq + consensus_sq

Averaging for measurement is no traffic of the method and is not in the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm import Communicator
from decentral.problems.capabilities import Leaving
from decentral.problems.objective import Objective
from decentral.runs.journal import Journal
from decentral.runs.sections.train import Train

_COLUMNS = 8192  # fixed, so that a worker's sum has the same order in every world
_ELEMENTS = 1 << 18  # looked at in one go, so that measuring needs little memory


def measure(x: Tensor, comm: Communicator, objective: Objective, last: bool) -> dict[str, float]:
    """The distances, and what the problem measures of its models."""
    mean = comm.observe_mean(x)
    distances = {"consensus_sq": _mean_square_distance(x, mean, comm)}
    if objective.optimum is not None:
        distances["bias_sq"] = _mean_square_distance(x, objective.optimum, comm)
        distances["mean_bias_sq"] = float(_square_distance(mean, objective.optimum)[0])
    return {**objective.evaluate(mean, x, comm, last), **distances}


def leave_findings(objective: Objective, journal: Journal) -> None:
    """Files of what the last record found, where the objective has some."""
    if isinstance(objective, Leaving):
        for name, text in objective.files().items():
            journal.leave(name, text)


class Moved(NamedTuple):
    """Bytes that each worker has sent, (n,); messages of all; bytes that MPI really moved between ranks, in all."""

    sent_bytes: NDArray[np.float64]
    messages: int
    mpi_bytes: int


def traffic(comm: Communicator) -> Moved:
    """The ledgers of all ranks. Every rank calls it."""
    sent = comm.observe(comm.ledger.bytes_sent)
    shares = np.zeros((comm.h, 2))
    shares[0] = comm.ledger.messages, comm.ledger.mpi_bytes  # counted by rank, carried by its first worker
    messages, mpi_bytes = comm.observe(shares).sum(axis=0)
    return Moved(sent, int(messages), int(mpi_bytes))


def record_interval(train: Train, cost_rounds: float) -> int:
    """Rounds from one record to the next; a record costs as much as ``cost_rounds`` rounds.

    By default a 20th of the run, but records take a 20th of the work at most.
    """
    if train.record_every != "auto":
        return train.record_every
    return max(1, train.rounds // 20, math.ceil(20 * cost_rounds))


def finite(row: Mapping[str, float]) -> bool:
    """Whether no distance in the row overflowed."""
    return all(np.isfinite(v) for k, v in row.items() if k.endswith("_sq"))


def norms(x: Tensor) -> NDArray[np.float64]:
    """|x_i|^2 of each hosted worker, (h,), float64."""
    return _square_distance(x, x.new_zeros(1, x.shape[1]))


def _mean_square_distance(x: Tensor, centre: Tensor, comm: Communicator) -> float:
    return float(comm.observe(_square_distance(x, centre)).mean())


def _square_distance(x: Tensor, centre: Tensor) -> NDArray[np.float64]:
    """|x_i - centre|^2 for each row, float64; a row is summed in an order of its own, alike in every world."""
    h, d = x.shape
    total, rows = np.zeros(h), max(1, _ELEMENTS // min(d, _COLUMNS))
    for a in range(0, d, _COLUMNS):
        middle = centre[:, a : a + _COLUMNS].double()
        for b in range(0, h, rows):
            block = (x[b : b + rows, a : a + _COLUMNS].double() - middle).cpu().numpy()
            with np.errstate(over="ignore"):  # a model that overflows is told by its infinite distance
                total[b : b + rows] += np.multiply(block, block, out=block).sum(axis=1)
    return total
