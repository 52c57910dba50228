"""Kernels that round as torch does on this processor."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

import topologies
from decentral.comm.plan import MixingPlan, plan_for
from decentral.comm.row_sum import sum_rows
from decentral.rounds.fused.kernel import Kernel

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.rounds.fused.program import Program

_ROWS, _COLUMNS = 5, 165  # several vectors together, one alone, and some columns


@cache
def kernel_for(program: Program, dtype: torch.dtype) -> Kernel | None:
    """The kernel; None without llvmlite, or where torch on this processor rounds otherwise."""
    try:
        kernel = Kernel(program, dtype)
    except ImportError:
        return None
    return kernel if agrees(kernel) else None


def agrees(kernel: Kernel) -> bool:
    """Whether a round of a few workers on a ring has the bits of torch's own operations."""
    plan = plan_for(topologies.mixing_matrix(topologies.ring(_ROWS)), 0, _ROWS)
    program, dtype, draws = kernel.program, kernel.dtype, torch.Generator().manual_seed(0)
    inputs = [torch.randn(_ROWS, _COLUMNS, generator=draws, dtype=dtype) for _ in range(program.inputs)]
    numbers = torch.randn(len(program.nodes), generator=draws, dtype=dtype)
    right = by_torch(program, [one.clone() for one in inputs], numbers.tolist(), plan)
    kernel(inputs, numbers, kernel.order(plan), plan.bags.weights.to(dtype))
    return all(
        torch.equal(inputs[k], value.expand_as(inputs[k]))
        for (k, _), value in zip(program.writes, right, strict=True)
    )


def by_torch(program: Program, inputs: list[Tensor], numbers: list[float], plan: MixingPlan) -> list[Tensor]:
    """What ``program.writes`` get, by torch's operations one after the other."""
    values: list[Tensor] = []
    for kind, of in program.nodes:
        a = inputs[of[0]] if kind == "in" else values[of[0]]
        if kind == "fma":
            a = a.add(values[of[1]], alpha=numbers[of[2]])
        elif kind in ("mul", "scale"):
            a = a.mul(values[of[1]] if kind == "mul" else numbers[of[1]])
        elif kind in ("div", "over"):
            a = a.div(values[of[1]] if kind == "div" else numbers[of[1]])
        elif kind == "mix":
            a = plan.combine(a, None)
        elif kind == "mean":
            a = sum_rows(a).div_(len(a))
        values.append(a)
    return [values[node] for _, node in program.writes]
