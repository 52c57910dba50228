"""Where a run's objective is built: the device of this rank, the numbers of the run, its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from decentral.comm.world import World
from decentral.errors import UserError
from decentral.problems.capabilities import Solved, Tryable, is_ours
from decentral.problems.objective import Place

if TYPE_CHECKING:
    from decentral.runs.kind import Run


class Here(NamedTuple):
    """This rank among all, and its device."""

    world: World
    device: torch.device


def device_of(wish: str, local_rank: int) -> torch.device:
    """The device of this rank: the GPU of its local number, or the CPU. Raises UserError if CUDA is absent."""
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            'train.device = "cuda" but this torch sees no GPU; use "cpu" or "auto", or see `decentral doctor`'
        )
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def place_of(
    run: Run, rows: range, device: torch.device, oracle: Literal["auto", "batched", "loop"] = "loop"
) -> Place:
    """Where the objective of the workers ``rows`` of this run is built, with which gradient oracle."""
    train = run.train
    return Place(
        workers=run.workers,
        rows=rows,
        seed=run.seed,
        dtype=torch.float64 if train.dtype == "float64" else torch.float32,
        device=device,
        batch_size=train.batch_size,
        weight_decay=train.weight_decay,
        oracle=oracle,
        eval_samples=train.eval_samples,
    )


def rehearse(run: Run, device: torch.device) -> None:
    """Try a model of the user's as this run trains it, or find an optimum; that is remembered. Raises UserError."""
    problem = run.problem
    if isinstance(problem, Solved):
        problem.solve(run.workers, run.seed, run.train.weight_decay)
    if isinstance(problem, Tryable) and not is_ours(problem):
        problem.tried(problem.made(run.workers, run.seed), place_of(run, range(1), device))
