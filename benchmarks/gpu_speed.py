"""Rounds a second of many workers on one device, beside the floor that its memory sets.

Of a round of DmSGD at least 8 h d numbers go through the memory: models are read forward and backward, gradients
written and read, models, momenta read and written. The floor is those bytes at the bandwidth of a copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

import topologies
from decentral.algorithms import DmSGD
from decentral.comm import LocalComm
from decentral.problems.data.dataset import Dataset
from decentral.problems.language_settings import Transformer
from decentral.problems.model_objective import ModelObjective
from decentral.problems.models.convolutional import cnn
from decentral.problems.models.dense import mlp
from decentral.problems.models.initialise import initialise
from decentral.problems.objective import Place
from decentral.rounds.advance import advance
from decentral.rounds.compiled import CompiledMethod

STREAMS, BATCH = 8, 16
MODELS = ("MLP 784-256-10", "CNN 28x28", "transformer")
LR = 0.01


@dataclass(frozen=True)
class Speed:
    """One measurement; ``floor_s`` of a round; ``worker_bytes``: of memory, for each of the workers, None on a CPU."""

    model: str
    workers: int
    device: str
    compiled: bool
    parameters: int
    chunk: int
    round_s: float
    floor_s: float
    worker_bytes: float | None


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second that a copy of so many bytes reads and writes; the best of five."""
    x = torch.zeros(size, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    y.copy_(x)
    return 2 * size / min(_timed(lambda: y.copy_(x), device) for _ in range(5))


def measured(
    model: str,
    workers: int,
    device: torch.device,
    compiled: bool,
    bytes_s: float,
    seconds: float,
    tiny: bool = False,
) -> Speed:
    """Rounds for so many seconds, after two that are not counted. ``tiny``: of a model that a test can wait for."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    objective = _objective(model, workers, device, tiny)
    comm = LocalComm(topologies.constant(topologies.mixing_matrix(topologies.ring(workers))))
    x = objective.start().expand(workers, -1).clone()
    state: Any = DmSGD(0.9).init(x, comm)
    method: Any = CompiledMethod(DmSGD(0.9), comm) if compiled else DmSGD(0.9)
    rounds = _Rounds(objective, method, comm, x, state)
    for _ in range(2):
        rounds.step()
    one = _timed(rounds.step, device)
    count = max(1, min(200, int(seconds / one)))
    round_s = _timed(lambda: [rounds.step() for _ in range(count)], device) / count
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    size = STREAMS * workers * objective.d * x.element_size()
    return Speed(
        model, workers, str(device), compiled, objective.d, objective.chunk or workers, round_s, size / bytes_s,
        None if peak is None else peak / workers,
    )  # fmt: skip


class _Rounds:
    def __init__(
        self, objective: ModelObjective, method: Any, comm: LocalComm, x: torch.Tensor, state: Any
    ) -> None:
        self.objective, self.method, self.comm, self.x, self.state, self.t = (
            objective,
            method,
            comm,
            x,
            state,
            0,
        )

    def step(self) -> None:
        blocks = self.objective.gradient(self.x, self.t)
        self.x, self.state = advance(self.method, self.x, self.state, blocks, self.comm, self.t, LR)
        self.t += 1


def _objective(model: str, workers: int, device: torch.device, tiny: bool) -> ModelObjective:
    place = Place(workers, range(workers), 0, torch.float32, device, BATCH, 0.0, "batched", 64)
    if model == "transformer":
        keys: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2, "context": 8} if tiny else {}
        return Transformer(partition="iid", **keys).build(place)  # type: ignore[return-value]
    dataset = _synthetic(model, max(64, 4 * workers), tiny)
    if model.startswith("CNN"):
        module = initialise(lambda: cnn(dataset.shape, 10, 2 if tiny else 8), 0)
    else:
        module = initialise(lambda: mlp(dataset.shape, 10, (8,) if tiny else (256,)), 0)
    shards = np.array_split(np.arange(len(dataset.train_y)), workers)
    return ModelObjective(module, dataset, shards, place)


def _synthetic(model: str, samples: int, tiny: bool) -> Dataset:
    side = 8 if tiny else 28
    shape = (1, side, side) if model.startswith("CNN") else (side * side,)
    draw = np.random.default_rng(0)
    examples = draw.standard_normal((samples, *shape)), draw.integers(0, 10, samples)
    few = examples[0][:64], examples[1][:64]
    return Dataset.of("noise", examples, few, 10, "drawn")


def _timed(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Where = Literal["cuda", "cpu"]


def wanted(tiny: bool) -> Iterator[tuple[str, int, Where, bool]]:
    """(model, workers, device, compiled) of each measurement, the ones that matter most first."""
    for workers in (4, 8) if tiny else (16, 256, 1024):
        for model in MODELS:
            yield model, workers, "cuda", False
            yield model, workers, "cpu", False
    for workers in () if tiny else (16, 256, 1024):
        for model in MODELS:
            yield model, workers, "cuda", True
