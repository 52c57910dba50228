"""What the passes of a program cost: FLOPs, seconds and kept activations, from a few steps of the program itself.

FLOPs are counted by torch's own counter, so they are those of the matrix products and convolutions. The critical path
is the makespan of a virtual clock on which a FLOP is a second: what a step costs once the stages work side by side.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from decentral.problems.models.draws import Generators
from decentral.runtime.clock import VirtualClock
from decentral.runtime.requests import Program
from decentral.stages.drawing import begun
from decentral.stages.program import StageProgram
from decentral.stages.stage import Stage

_STEPS = 4  # of a short profile; the long one has twice as many, and their difference is the steady state


@dataclass(frozen=True)
class Profile:
    """``flops`` and ``seconds`` of one piece of work, by (stage, kind), means; per step: all FLOPs, critical FLOPs.

    ``activation_bytes``: of each stage, the most that saved tensors held at a time, parameters apart.
    """

    flops: Mapping[tuple[int, str], float]
    seconds: Mapping[tuple[int, str], float]
    flops_step: float
    critical_flops_step: float
    activation_bytes: tuple[int, ...]


def profile(
    program: StageProgram, make_stages: Callable[[int], list[Stage]], generators: Generators | None = None
) -> Profile:
    """Run a few steps on fresh stages: ``make_stages(steps)`` gives them, and they are thrown away.

    ``generators``: what their passes draw from.
    """
    flops = defaultdict(list)
    seconds = defaultdict(list)
    meters: dict[int, ActivationMeter] = {}

    @contextmanager
    def counted(stage: int, kind: str) -> Iterator[None]:
        with FlopCounterMode(display=False) as counter:
            yield
        flops[stage, kind].append(counter.get_total_flops())

    @contextmanager
    def timed(stage: int, kind: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        seconds[stage, kind].append(time.thread_time() - began)

    @contextmanager
    def metered(stage: int, kind: str) -> Iterator[None]:
        del kind
        with meters[stage].watch():
            yield

    def programs(stages: list[Stage]) -> dict[int, Program]:
        return {s.index: begun(program, s, generators) for s in stages}

    _run(programs(make_stages(_STEPS)), counted)
    _run(programs(make_stages(_STEPS)), timed)
    stages = make_stages(_STEPS)
    meters |= {s.index: ActivationMeter() for s in stages}
    _run(programs(stages), metered)
    flops_of = {key: statistics.fmean(values) for key, values in flops.items()}
    spans = [_makespan(programs(make_stages(steps)), flops_of) for steps in (_STEPS, 2 * _STEPS)]
    return Profile(
        flops=flops_of,
        seconds={key: statistics.fmean(values) for key, values in seconds.items()},
        flops_step=sum(map(sum, flops.values())) / _STEPS,
        critical_flops_step=(spans[1] - spans[0]) / _STEPS,
        activation_bytes=tuple(meters[s.index].most_bytes for s in stages),
    )


def _run(programs: Mapping[int, Program], around: Any) -> None:
    VirtualClock(programs, lambda *_: 1.0, around=around).run()


def _makespan(programs: Mapping[int, Program], flops: Mapping[tuple[int, str], float]) -> float:
    def cost(stage: int, kind: str) -> float:
        return flops.get((stage, kind), 0.0)

    return VirtualClock(programs, cost).run().makespan_s


class ActivationMeter:
    """Bytes that autograd keeps for backward passes, each storage once, parameters and views of them apart."""

    def __init__(self) -> None:
        self.live: dict[int, int] = {}
        self.bytes = self.most_bytes = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count what is saved inside; it is uncounted when its graph is freed, whenever that is."""
        with saved_tensors_hooks(self._pack, lambda kept: kept.tensor):
            yield

    def _pack(self, tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        dense = (
            tensor.layout is torch.strided
        )  # a sparse matrix is a constant of the model, and has no storage
        if dense and not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            key = storage.data_ptr()
            if not self.live.get(key):
                self.bytes += storage.nbytes()
                self.most_bytes = max(self.most_bytes, self.bytes)
            self.live[key] = self.live.get(key, 0) + 1
            weakref.finalize(kept, self._freed, key, storage.nbytes())
        return kept

    def _freed(self, key: int, size: int) -> None:
        self.live[key] -= 1
        if not self.live[key]:
            self.bytes -= size


class _Kept:
    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def cost_table(profile: Profile, by: str, flops_per_s: float) -> dict[tuple[int, str], float]:
    """Seconds of each (stage, kind): as measured, or FLOPs at a given rate, which is the same everywhere."""
    if by == "measured":
        return dict(profile.seconds)
    return {key: value / flops_per_s for key, value in profile.flops.items()}


def layer_flops(layers: list[nn.Module], x: Tensor) -> list[float]:
    """Forward FLOPs of each layer on the batch x, or, where torch counts none, the elements of its output."""
    found = []
    with torch.no_grad():
        for layer in layers:
            with FlopCounterMode(display=False) as counter:
                x = layer(x)
            found.append(float(counter.get_total_flops() or x.numel()))
    return found
