"""Cells of LSTMs with projection: a layer's passes forward and backward against their matrix products alone.

Question: what do gates, states and bookkeeping cost beside the products? One layer, the input products of all steps at
once on both sides, of the paper's size (p = 1024, n = 8192, r = 512), one thread. The least time of the
processor that either side takes in turns: the machine may be busy, and both are one thread's work.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.timing import Line, at_most, print_lines
from decentral.allocator import keep_freed_memory
from decentral.comm.launch import one_thread
from decentral.problems.models.projected_lstm import FactorisedLSTM, GroupLSTM

P, N, RANK = 1024, 8192, 512
BATCH, STEPS, REPEATS = 32, 8, 7


def measure() -> list[Line]:
    keep_freed_memory()
    layers: dict[str, nn.Module] = {
        "dense": GroupLSTM(P, N, P),
        f"factorised, rank {RANK}": FactorisedLSTM(P, N, P, RANK),
    }
    layers |= {f"{k} groups": GroupLSTM(P, N, P, k) for k in (2, 4)}
    with one_thread():
        return [_line(name, layer) for name, layer in layers.items()]


def _line(name: str, layer: nn.Module) -> Line:
    alone = _factorised(RANK) if isinstance(layer, FactorisedLSTM) else _grouped(layer.k)
    ours, floor = _fastest(_passes(layer), alone)
    return at_most(f"{name}: forward and backward / matrix products alone", ours, floor, 1.2)


def _fastest(*works: Callable[[], object]) -> list[float]:
    times: list[list[float]] = [[] for _ in works]
    for turn in range(REPEATS + 1):
        for work, found in zip(works, times, strict=True):
            began = time.process_time()
            work()
            if turn:
                found.append(time.process_time() - began)
    return [min(found) for found in times]


def _passes(layer: nn.Module) -> Callable[[], object]:
    x, dy = torch.randn(BATCH, STEPS, P, requires_grad=True), torch.randn(BATCH, STEPS, P)

    def both() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x).backward(dy)

    return both


def _grouped(k: int) -> Callable[[], object]:
    """The products of k groups: of inputs, of states and of the projection, each forward and twice backward."""
    rows, width, s = BATCH * STEPS, P // k, N // k
    of_x, of_h, projection = (torch.randn(k, *shape) for shape in ((4 * s, width), (4 * s, width), (P, s)))
    x, h, m = torch.randn(k, rows, width), torch.randn(k, BATCH, width), torch.randn(k, BATCH, s)
    all_m, all_h, out, dm = (
        torch.randn(k, rows, s),
        torch.randn(rows, P),
        torch.empty(BATCH, P),
        torch.empty(k, BATCH, s),
    )
    gates, dh, groups = torch.empty(k, STEPS, BATCH, 4 * s), torch.zeros(k, BATCH, width), range(k)

    def products() -> None:
        for g in groups:
            torch.mm(x[g], of_x[g].T, out=gates[g].view(rows, -1))
        for t in range(STEPS):
            for g in groups:
                gates[g, t].addmm_(h[g], of_h[g].T)
                out.addmm_(m[g], projection[g].T)
        for t in range(STEPS):
            for g in groups:
                torch.mm(out, projection[g], out=dm[g])
                dh[g].addmm_(gates[g, t], of_h[g])
        for g in groups:
            flat = gates[g].view(rows, -1)
            (
                torch.mm(flat.T, x[g]),
                torch.mm(flat.T, x[g]),
                torch.mm(flat, of_x[g]),
                torch.mm(all_h.T, all_m[g]),
            )

    return products


def _factorised(r: int) -> Callable[[], object]:
    """The products of factorised gates: down to r for inputs and states, up from it, and the projection."""
    rows = BATCH * STEPS
    down_x, down_h, up = torch.randn(r, P), torch.randn(r, P), torch.randn(4 * N, r)
    x, h, m, projection = (torch.randn(*shape) for shape in ((rows, P), (BATCH, P), (BATCH, N), (P, N)))
    all_m, gates = torch.randn(rows, N), torch.empty(STEPS, BATCH, 4 * N)

    def products() -> None:
        u = torch.mm(x, down_x.T).view(STEPS, BATCH, r)
        out, dm, dh = torch.empty(BATCH, P), torch.empty(BATCH, N), torch.zeros(BATCH, P)
        for t in range(STEPS):
            torch.mm(u[t].addmm_(h, down_h.T), up.T, out=gates[t])
            torch.mm(m, projection.T, out=out)
        du = torch.empty_like(u)
        for t in range(STEPS):
            torch.mm(out, projection, out=dm)
            torch.mm(gates[t], up, out=du[t])
            dh.addmm_(du[t], down_h)
        flat = du.view(rows, r)
        torch.mm(flat.T, x), torch.mm(flat.T, x), torch.mm(flat, down_x), torch.mm(x.T, all_m)
        torch.mm(gates.view(rows, -1).T, flat)

    return products


if __name__ == "__main__":
    print_lines("cells", measure())
