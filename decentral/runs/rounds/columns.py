"""Columns that runs of rounds have and others have not: what links save, and what theory foretells."""

from __future__ import annotations

import numpy as np

from decentral.comm import Communicator
from decentral.optimizers.rule import is_asked
from decentral.optimizers.schedules import Constant
from decentral.problems.capabilities import Linear
from decentral.problems.objective import Objective
from decentral.rounds.trials.fixed_points import fixed_point
from decentral.runs.rounds.config import RoundsRun

_SMALL = 5_000  # parameters of all workers up to which the closed form is solved: a second at the most


def compression_ratios(comm: Communicator) -> dict[str, float]:
    """compression_ratio: bytes of the vectors sent since the last record, over those of their packets.

    Also by kind of layer, where the compressor sends layers apart. In the first record there is none. Every rank calls
    it.
    """
    if comm.links is None:
        return {}
    counts = comm.links.take_counts()
    shares = np.zeros((comm.h, len(counts), 2))
    shares[0] = list(counts.values())  # counted by rank, carried by its first worker
    ratios = {}
    for kind, (vector_bytes, packet_bytes) in zip(counts, comm.observe(shares).sum(axis=0), strict=True):
        name = f"compression_ratio_{kind}" if kind else "compression_ratio"
        ratios[name] = float(vector_bytes / packet_bytes) if packet_bytes else float("nan")
    return ratios


def theory_bias_sq(run: RoundsRun, comm: Communicator, objective: Objective) -> dict[str, float]:
    """theory_bias_sq: the bias of the closed-form steady state, where there is one."""
    problem, schedule = run.problem, comm.schedule
    has_form = isinstance(problem, Linear) and isinstance(run.schedule, Constant) and schedule.period == 1
    plain = (
        not is_asked(run.optimizer)
        and not run.compression
        and comm.faults is None
        and not run.train.clip_norm
        and run.phases is None
    )
    if not has_form or not plain or not problem.exact(run.train.batch_size) or comm.n * objective.d > _SMALL:
        return {}
    if objective.optimum is None:
        return {}
    hessians, linear = problem.linear_terms(comm.n, run.seed)
    hessians = hessians + run.train.weight_decay * np.eye(linear.shape[1])
    rest = fixed_point(run.algorithm, schedule.matrix(0), hessians, linear, run.train.lr)
    if rest is None:
        return {}
    apart = rest - objective.optimum.double().cpu().numpy()
    return {"theory_bias_sq": float((apart**2).sum(1).mean())}
