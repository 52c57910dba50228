"""The round update alone, mixing and momentum, against streaming the arrays it must read and write once.

Question: how far is a round from the memory's speed? Five streams are the least: x, g and the momentum are read,
x and the momentum are written. And behind an update rule: how far from torch's optimizer on all rows, then mixing?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import topologies
from benchmarks.timing import Line, at_most, interleaved, print_lines
from decentral.algorithms import DSGD, DecentLaM, DmSGD
from decentral.allocator import keep_freed_memory
from decentral.comm import LocalComm
from decentral.optimizers import AdamW
from decentral.rounds.advance import advance
from decentral.rounds.compiled import CompiledMethod
from decentral.rounds.ruled import Ruled


def measure(compiled: bool = True) -> list[Line]:
    keep_freed_memory()
    lines = []
    for n, d, limit in [(64, 200_000, 1.6), (1024, 50_000, 2.0)]:
        comm = LocalComm(topologies.mixing_matrix(topologies.ring(n)))
        x, u, g = (torch.randn(n, d) for _ in range(3))

        works = {"floor": streaming(x, u, g)}
        for method in (DmSGD(0.9), DecentLaM(0.9)):
            works[type(method).__name__] = by_round(method, comm, g)
            if compiled and n == 64:
                works[type(method).__name__ + " compiled"] = by_round(
                    CompiledMethod(method, comm), comm, g, method
                )
        times = interleaved(works, repeats=15)
        for name in list(works)[1:]:
            what = f"round, {name}, ring, n = {n:,}, d = {d:,}: ours / streaming"
            lines.append(at_most(what, times[name], times["floor"], 2.3 if "compiled" in name else limit))
    return [*lines, _behind_adamw()]


def _behind_adamw(n: int = 64, d: int = 200_000) -> Line:
    comm, g = LocalComm(topologies.mixing_matrix(topologies.ring(n))), torch.randn(n, d)
    x = torch.nn.Parameter(torch.randn(n, d))
    optimizer, x.grad = torch.optim.AdamW([x], 1e-4, weight_decay=0.01), g

    def by_torch() -> None:
        optimizer.step()
        x.data = comm.mix_(x.data)

    ours = by_round(Ruled(DSGD(), AdamW().decayed(0.01)), comm, g)
    times = interleaved({"ours": ours, "torch": by_torch}, repeats=15)
    what = f"round, DSGD behind AdamW, ring, n = {n:,}, d = {d:,}: ours / torch.optim on all rows, mixed"
    return at_most(what, times["ours"], times["torch"], 1.1)


def streaming(x: torch.Tensor, u: torch.Tensor, g: torch.Tensor) -> Callable[[], None]:
    """Reads three arrays and writes two, once."""

    def work() -> None:
        x.add_(g, alpha=1e-9)
        u.mul_(0.999)

    return work


def by_round(method: Any, comm: LocalComm, g: torch.Tensor, plain: Any = None) -> Callable[[], None]:
    """A round of ``method``, from where the last has ended."""
    x = torch.randn_like(g)
    held = [x, (plain or method).init(x, comm), 0]

    def work() -> None:
        held[0], held[1] = advance(method, held[0], held[1], [(slice(0, g.shape[1]), g)], comm, held[2], 1e-4)
        held[2] += 1

    return work


if __name__ == "__main__":
    print_lines("round update", measure())
