"""Where a run's objective is built: the device of this rank, the numbers of the run, its workers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from decentral.comm.launch import cuda_aware
from decentral.comm.layout import Layout
from decentral.comm.world import World
from decentral.errors import UserError
from decentral.optimizers.rule import is_asked
from decentral.problems.capabilities import Layered, Solved, Trainable, Tryable, is_ours
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


def device_facts(device: torch.device) -> dict[str, str]:
    """Of environment.json."""
    return {
        "device": str(device),
        **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
    }


def device_words(wish: str, world: World) -> str:
    """Which device is used, and how messages get to it, for people; "" where torch sees no GPU."""
    if not torch.cuda.is_available():
        return ""
    device = device_of(wish, world.local_rank)
    if device.type == "cpu":
        return f'on the CPU, beside a GPU (train.device = "{wish}")'
    way = "straight over MPI (DECENTRAL_CUDA_AWARE)" if cuda_aware() else "through pinned host memory"
    messages = f"; messages between ranks go {way}" if world.ranks > 1 else ""
    return f"on {device}, {torch.cuda.get_device_name(device)}{messages}"


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
        adversarial=getattr(run, "adversarial", None),
        chunk=train.chunk,
    )


def rehearse(run: Run, device: torch.device) -> None:
    """Try a model or a rule of the user's as this run trains it, or find an optimum; that is remembered. UserError."""
    problem, rule = run.problem, getattr(run, "optimizer", None)
    if isinstance(problem, Solved):
        problem.solve(run.workers, run.seed, run.train.weight_decay)
    if is_asked(rule) and isinstance(problem, Trainable):
        rule = rule.decayed(run.train.weight_decay)
        rule.refuse(lambda: layout_of(run), getattr(torch, run.train.dtype))
    if not isinstance(problem, Tryable) or is_ours(problem):
        return
    made, place = problem.made(run.workers, run.seed), place_of(run, range(1), device)
    for key, size in run.batch_sizes.items():
        try:
            problem.tried(made, replace(place, batch_size=size))
        except UserError as error:
            raise UserError(str(error).replace("train.batch_size", key)) from error
    if place.adversarial is not None:
        objective: Any = problem.build(place)
        objective.examples(objective.start()[None], 0)


def layout_of(run: Run) -> Layout:
    """Of one of its models."""
    problem = run.problem
    if isinstance(problem, Layered):
        return Layout.of(problem.made(run.workers, run.seed).module)
    layout: Layout = problem.build(place_of(run, range(1), torch.device("cpu"))).layout
    return layout
