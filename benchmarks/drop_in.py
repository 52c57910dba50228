"""The drop-in on 2 ranks: optimizer.step() against torch's own step, the raw exchange of the same bytes, averaging.

Question: what does a round cost in a user's own script over what cannot be saved? Both contenders are given the
gradients that backward left, a tensor a parameter. The bare one has its parameters in one flat buffer.
Ranks of both take turns inside one job, so that they meet the same machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from benchmarks.ranks import alternate, launch, main
from benchmarks.timing import Line, at_most

WIDTHS = {"1 M": (784, 1024, 200, 10), "10 M": (784, 3072, 2400, 10)}
"""Layers of the MLPs: 1.01 and 9.81 million parameters."""


def steps(widths: str, optimizer: str, backward: str) -> dict[str, float]:
    """On 2 ranks: seconds a step of each contender; with ``backward`` "yes", of a whole training step."""
    import torch
    from mpi4py import MPI
    from torch import nn
    from torch.nn.functional import cross_entropy

    import decentral as dc

    torch.set_num_threads(1)
    world, other = MPI.COMM_WORLD, 1 - MPI.COMM_WORLD.rank
    inputs, labels = torch.randn(16, 784), torch.randint(10, (16,))

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        sizes = WIDTHS[widths]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def inner(module: nn.Module) -> torch.optim.Optimizer:
        if optimizer == "adam":
            return torch.optim.Adam(module.parameters(), lr=1e-6)
        return torch.optim.SGD(module.parameters(), lr=1e-6)

    def gradients(module: nn.Module) -> None:
        module.zero_grad()
        cross_entropy(module(inputs), labels).backward()

    def timed(module: nn.Module, step: Callable[[], Any]) -> Callable[[], None]:
        gradients(module)

        def work() -> None:
            if backward == "yes":
                gradients(module)
            step()

        return work

    bare_model = model()
    parameters = list(bare_model.parameters())
    flat = torch.empty(sum(p.numel() for p in parameters))
    halo, at = torch.empty_like(flat), 0
    for p in parameters:
        view = flat[at : at + p.numel()].view_as(p)
        view.copy_(p.data)
        p.data, at = view, at + p.numel()
    bare_inner = inner(bare_model)

    @torch.no_grad()
    def bare() -> None:
        bare_inner.step()
        requests = [world.Irecv(halo.numpy(), source=other), world.Isend(flat.numpy(), dest=other)]
        MPI.Request.Waitall(requests)
        flat.mul_(0.5).add_(halo, alpha=0.5)

    works = {"bare": timed(bare_model, bare)}
    comm = dc.join("ring")
    for name, method in {
        "dsgd": dc.algorithms.DSGD(), "awc": dc.algorithms.DSGD("awc"), "decentlam": dc.algorithms.DecentLaM(0.9)
    }.items():  # fmt: skip
        module = model()
        works[name] = timed(module, dc.Decentralized(inner(module), method=method, comm=comm).step)
    return alternate(world, works, rounds=10, turns=11)


def measure() -> list[Line]:
    lines = []
    for size in WIDTHS:
        for optimizer in ("sgd", "adam"):
            for backward in ("no", "yes"):
                if optimizer == "adam" and backward == "yes":
                    continue
                times = json.loads(launch(2, "-m", "benchmarks.drop_in", "steps", size, optimizer, backward))
                for method in ("dsgd", "awc", "decentlam"):
                    what = f"2 ranks, {size} parameters, {optimizer}, {method}: "
                    what += "training step" if backward == "yes" else "step"
                    lines.append(at_most(what + ", ours / bare", times[method], times["bare"], 1.1))
    return lines


if __name__ == "__main__":
    main("drop-in", measure, steps)
