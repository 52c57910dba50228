"""The drop-in on 2 ranks: optimizer.step() against torch's own step, the raw exchange of the same bytes, averaging.

Question: what does a round cost in a user's own script over what cannot be saved? All contenders are given the
gradients that backward left, a tensor a parameter. The bare ones, and DecentLaM written by hand, have their parameters
in one flat buffer. All take turns inside one job, so that they meet the same machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
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
    comm = dc.join("ring")
    world, other = MPI.COMM_WORLD, 1 - MPI.COMM_WORLD.rank
    inputs, labels = torch.randn(16, 784), torch.randint(10, (16,))

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        sizes = WIDTHS[widths]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def inner(module: nn.Module, momentum: float = 0.0) -> torch.optim.Optimizer:
        if optimizer == "adam":
            return torch.optim.Adam(module.parameters(), lr=1e-6)
        return torch.optim.SGD(module.parameters(), lr=1e-6, momentum=momentum)

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

    def flattened(module: nn.Module) -> torch.Tensor:
        """Its parameters, which become views of it."""
        parameters = list(module.parameters())
        flat, at = torch.empty(sum(p.numel() for p in parameters)), 0
        for p in parameters:
            view = flat[at : at + p.numel()].view_as(p)
            view.copy_(p.data)
            p.data, at = view, at + p.numel()
        return flat

    def bare(module: nn.Module, momentum: float = 0.0) -> Callable[[], None]:
        flat, own = flattened(module), inner(module, momentum)
        halo = torch.empty_like(flat)

        @torch.no_grad()
        def step() -> None:
            own.step()
            swap(flat, halo)
            flat.mul_(0.5).add_(halo, alpha=0.5)

        return step

    def swap(mine: torch.Tensor, theirs: torch.Tensor) -> None:
        requests = [world.Irecv(theirs.numpy(), source=other), world.Isend(mine.numpy(), dest=other)]
        MPI.Request.Waitall(requests)

    def by_hand(module: nn.Module) -> Callable[[], None]:
        """DecentLaM with beta = 0.9, of whole vectors."""
        parameters, flat = list(module.parameters()), flattened(module)
        u, z, halo = torch.zeros_like(flat), torch.empty_like(flat), torch.empty_like(flat)
        z_views = [z[p.storage_offset() : p.storage_offset() + p.numel()].view_as(p) for p in parameters]

        @torch.no_grad()
        def step() -> None:
            z.copy_(flat)
            torch._foreach_add_(z_views, [p.grad for p in parameters], alpha=-1e-6)
            swap(z, halo)
            z.mul_(0.5).add_(halo, alpha=0.5)
            torch.add(flat, u, alpha=0.9, out=u).sub_(z)
            flat.sub_(u)

        return step

    works: dict[str, Callable[[], None]] = {}
    contenders = {"bare": bare}
    if optimizer == "sgd":
        contenders |= {"bare with momentum": partial(bare, momentum=0.9), "by hand": by_hand}
    for name, make in contenders.items():
        module = model()
        works[name] = timed(module, make(module))
    for name, method in {
        "dsgd": dc.algorithms.DSGD(), "awc": dc.algorithms.DSGD("awc"), "decentlam": dc.algorithms.DecentLaM(0.9)
    }.items():  # fmt: skip
        module = model()
        works[name] = timed(module, dc.Decentralized(inner(module), method=method, comm=comm).step)
    return alternate(world, works, rounds=10, turns=51 if widths == "1 M" else 11)


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
                    own = "bare with momentum" if method == "decentlam" and optimizer == "sgd" else "bare"
                    for other in (own, "by hand") if own != "bare" else (own,):
                        lines.append(at_most(f"{what}, ours / {other}", times[method], times[other], 1.1))
    return lines


if __name__ == "__main__":
    main("drop-in", measure, steps)
