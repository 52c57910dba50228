"""The compiled form of a method's step: the same text through ``torch.compile``, fused into one pass over memory.

For all workers in one process on a graph that does not change. It needs a C++ compiler and some seconds at the first
round, and sums may be rounded differently; so it is an option, never the default.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from decentral.algorithms.state import map_state
from decentral.algorithms.traits import Method, traits_of
from decentral.comm import Communicator, Mixer
from decentral.comm.stand_ins import AtOnce
from decentral.errors import UserError


class CompiledMethod:
    """Stands in for ``method`` in the round loop; traffic is billed as ever."""

    def __init__(self, method: Method[Any], comm: Communicator) -> None:
        if comm.ranks > 1 or comm.schedule.period != 1:
            raise UserError(
                "train.compile = true needs one process and a graph that does not change; set it to false"
            )
        self.method = method
        self.mixes, self.means = _traffic(method, comm)
        # a round is fused as a whole, and for one width
        self.traits = replace(traits_of(method), whole=True)
        traced = _TracedComm(comm)

        def step(x: Tensor, state: Any, g: Tensor, lr: float) -> Any:
            # copies, which the compiler fuses away: else what the method overwrites costs a pass of its own
            return method.step(x.clone(), map_state(Tensor.clone, state), g, traced, lr)

        self._step = torch.compile(step)

    def init(self, x: Tensor, comm: Mixer) -> Any:
        """As the method."""
        return self.method.init(x, comm)

    def step(self, x: Tensor, state: Any, g: Tensor, comm: Mixer, lr: float) -> Any:
        """One round, compiled."""
        for _ in range(self.mixes):
            comm.bill_gossip(x)
        for _ in range(self.means):
            comm.bill_all_reduce(x)
        return self._step(x, state, g, lr)


def _traffic(method: Method[Any], comm: Mixer) -> tuple[int, int]:
    """How often a step mixes and averages, told by a step on one column that only counts."""
    counter, x = _CountingComm(comm), torch.zeros(comm.h, 1)
    state = method.init(x, counter)
    counter.mixes = counter.means = 0
    method.step(x, state, x.clone(), counter, 1.0)
    return counter.mixes, counter.means


class _TracedComm(AtOnce):
    """Mixing and mean as tensor expressions that a compiler can fuse."""

    def __init__(self, comm: Communicator) -> None:
        self.n, self.h = comm.n, comm.h
        self.exact, self.runs = comm.plan.exact, comm.plan.runs
        self.shifts = _shifts(comm)

    def mix(self, x: Tensor) -> Tensor:
        if self.exact:
            return self.mean(x).expand(x.shape).clone()
        if self.shifts:
            return sum(x.roll(-shift, 0) * weight for shift, weight in self.shifts.items())  # type: ignore[return-value]
        parts = []
        for run in self.runs:
            terms = [x[row : row + run.size] * weight for row, weight in run.terms]
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            parts.append(total)
        return torch.cat(parts)

    def mean(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True)


def _shifts(comm: Communicator) -> dict[int, float]:
    """Shift -> weight where W is circulant, (W x)_i = sum_s w_s x_(i+s), which fuses best; else empty."""
    w = comm.schedule.matrix(0).tocoo()
    weights: dict[int, set[float]] = {}
    for shift, weight in zip(((w.col - w.row) % comm.n).tolist(), w.data.tolist(), strict=True):
        weights.setdefault(shift, set()).add(weight)
    same = all(len(values) == 1 for values in weights.values()) and w.nnz == comm.n * len(weights)
    return {shift: values.pop() for shift, values in sorted(weights.items())} if same else {}


class _CountingComm(AtOnce):
    """Counts the calls of one step. Raises UserError for a method whose rounds differ."""

    @property
    def t(self) -> int:  # type: ignore[override]
        raise UserError(
            "train.compile = true is for methods whose rounds are all alike, and this one asks which round it is; set "
            "it to false"
        )

    def __init__(self, comm: Mixer) -> None:
        self.n, self.h = comm.n, comm.h
        self.mixes = self.means = 0

    def mix(self, x: Tensor) -> Tensor:
        self.mixes += 1
        return x.clone()

    def mean(self, x: Tensor) -> Tensor:
        self.means += 1
        return x[:1].clone()
