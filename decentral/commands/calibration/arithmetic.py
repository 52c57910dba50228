"""Seconds of a worker's own arithmetic: rounds without their messages, and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import topologies
from decentral.algorithms import DSGD, PmSGD
from decentral.comm import Communicator
from decentral.comm.launch import local_rank
from decentral.errors import UserError
from decentral.problems.objective import Objective
from decentral.rounds.advance import advance
from decentral.runs.place import device_of, place_of
from decentral.runs.rounds.config import RoundsRun

ROUND_BYTES = (1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 25)
"""Sizes of models whose rounds' arithmetic is measured."""
KINDS: dict[str, Any] = {"gossip": DSGD(), "all_reduce": PmSGD()}
"""The rounds: DSGD on a ring, and PmSGD, one worker a rank."""


def ring_matrix(n: int) -> NDArray[np.float64]:
    """W of a ring of n workers, also where one or two are none."""
    if n < 3:
        return np.full((n, n), 1 / n)
    return np.asarray(topologies.mixing_matrix(topologies.ring(n)).toarray())


def rounds(comm: Communicator, kind: str, model_bytes: int) -> Callable[[], None]:
    """Does one more round of ``kind`` on a model of ``model_bytes`` of float32, from given gradients, as a run does."""
    d = max(1, model_bytes // 4)
    x, g = torch.ones(comm.h, d), torch.full((comm.h, d), 1e-6)
    method = KINDS[kind]
    state, t = method.init(x, comm), 0

    def work() -> None:
        nonlocal x, state, t
        x, state = advance(method, x, state, [(slice(0, d), g)], comm, t, 1e-3)
        t += 1

    return work


def gradients(config: RoundsRun, rank: int) -> tuple[Callable[[], None], int]:
    """Computes one more gradient of a worker of the run, and how many samples each has.

    Raises UserError where the run has no samples.
    """
    worker = rank % config.topology.workers
    device = device_of(config.train.device, local_rank())
    place = place_of(config, range(worker, worker + 1), device, config.train.oracle)
    objective: Objective = config.problem.build(replace(place, adversarial=None))
    batch = config.train.batch_size
    if isinstance(batch, str) or objective.epoch(1) is None:
        raise UserError(
            "calibrate measures seconds a sample, but these gradients are not of batches of samples; give a file "
            "with a data set and a number as train.batch_size, or no file: an mlp on digits"
        )
    x, t = objective.start().to(device).expand(1, -1).clone(), 0

    def work() -> None:
        nonlocal t
        for _, g in objective.gradient(x, t):
            del g
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        t += 1

    return work, batch
