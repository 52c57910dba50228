"""What is measured of every method alike, in float64, whatever the run's own numbers are.

    consensus_sq = (1/n) sum |x_i - xbar|^2
    bias_sq      = (1/n) sum |x_i - x*|^2
    mean_bias_sq = |xbar - x*|^2,      and bias_sq = mean_bias_sq + consensus_sq

Averaging for measurement is no traffic of the method and is not in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm import Communicator
from decentral.problems.objective import Objective

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


def traffic(comm: Communicator) -> dict[str, float]:
    """The ledger over all workers, and what MPI really moved between ranks in all."""
    sent = comm.observe(comm.ledger.bytes_sent)
    shares = np.zeros((comm.h, 2))
    shares[0] = comm.ledger.messages, comm.ledger.mpi_bytes  # counted by rank, carried by its first worker
    messages, mpi_bytes = comm.observe(shares).sum(axis=0)
    return {
        "bytes_sent_mean": float(sent.mean()),
        "bytes_sent_max": float(sent.max()),
        "messages": int(messages),
        "mpi_bytes_sent": int(mpi_bytes),
    }


def first_divergence(
    losses: NDArray[np.float64], start: int, limit: float, comm: Communicator
) -> tuple[int, int, float] | None:
    """(round, worker, loss) of the first loss, by round, then worker, that is not finite or above ``limit``.

    ``losses``: (rounds since ``start``, h). Every rank gets the same answer.
    """
    everyone = comm.observe(np.ascontiguousarray(losses.T)).T
    bad = np.argwhere(~(everyone <= limit))  # catches NaN too
    if not len(bad):
        return None
    t, worker = bad[0].tolist()
    return start + t, worker, float(everyone[t, worker])


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
