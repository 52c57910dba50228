"""MPI: rounds a second, the gossip round, start-up and recording, against bare loops on the same ranks.

Questions: what does the general program cost over a bare mpi4py loop with flat buffers, and over importing torch?
Ranks of both contenders take turns inside one job, so that they meet the same machine.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.ranks import alternate, launch, main
from benchmarks.timing import Line, at_least, at_most


def training_rounds() -> dict[str, float]:
    """On every rank: seconds a round of one MLP worker, ours and a bare loop with the same autograd."""
    from decentral.allocator import keep_freed_memory

    keep_freed_memory()
    import numpy as np
    import torch
    from mpi4py import MPI
    from torch.nn.functional import cross_entropy

    import topologies
    from decentral.algorithms import DmSGD
    from decentral.comm.layout import Layout
    from decentral.comm.mpi import MPIComm
    from decentral.problems.models.dense import mlp
    from decentral.problems.oracles import LoopOracle
    from decentral.rounds.advance import advance

    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    n, rank = world.size, world.rank
    inputs, labels = torch.randn(1, 32, 784), torch.randint(10, (1, 32))
    module = mlp(784, 10, (256,))
    layout = Layout.of(module)
    comm = MPIComm(topologies.mixing_matrix(topologies.ring(n)))
    oracle = LoopOracle(module, layout, {}, comm.rows, 0)
    method = DmSGD(0.9)
    x = layout.flatten(module)[None].clone()
    held: list[Any] = [x, method.init(x, comm), 0]

    def ours() -> None:
        _, blocks = oracle.gradient(held[0], inputs, labels, held[2])
        held[0], held[1] = advance(method, held[0], held[1], blocks, comm, held[2], 0.01)
        held[2] += 1

    bare_module = mlp(784, 10, (256,))
    parameters = list(bare_module.parameters())
    flat, grad, m = (torch.zeros(layout.d) for _ in range(3))
    at = 0
    for p in parameters:
        view = flat[at : at + p.numel()].view_as(p)
        view.copy_(p.data)
        p.data, p.grad = view, grad[at : at + p.numel()].view_as(p)
        at += p.numel()
    left, right = np.empty(layout.d, np.float32), np.empty(layout.d, np.float32)
    left_t, right_t = torch.from_numpy(left), torch.from_numpy(right)
    third = 1 / 3

    def bare() -> None:
        grad.zero_()
        cross_entropy(bare_module(inputs[0]), labels[0]).backward()
        m.mul_(0.9).add_(grad)
        flat.sub_(m, alpha=0.01)
        before, after = (rank - 1) % n, (rank + 1) % n
        requests = [world.Irecv(left, source=before), world.Irecv(right, source=after)]
        requests += [world.Isend(flat.numpy(), dest=before), world.Isend(flat.numpy(), dest=after)]
        MPI.Request.Waitall(requests)
        flat.mul_(third).add_(left_t, alpha=third).add_(right_t, alpha=third)

    return alternate(world, {"ours": ours, "bare": bare}, rounds=25, turns=8)


def gossip_rounds() -> dict[str, float]:
    """On 2 ranks, d = 1,000,000: DecentLaM's round, and the raw exchange of the same bytes with the arithmetic."""
    from decentral.allocator import keep_freed_memory

    keep_freed_memory()
    import torch
    from mpi4py import MPI

    import topologies
    from decentral.algorithms import DecentLaM
    from decentral.comm.mpi import MPIComm
    from decentral.rounds.advance import advance

    torch.set_num_threads(1)
    world, d = MPI.COMM_WORLD, 1_000_000
    comm = MPIComm(topologies.mixing_matrix(topologies.ring(2)))
    method = DecentLaM(0.9)
    x, g = torch.randn(1, d), torch.randn(1, d)
    held: list[Any] = [x.clone(), method.init(x, comm), 0]

    def ours() -> None:
        held[0], held[1] = advance(method, held[0], held[1], [(slice(0, d), g)], comm, held[2], 1e-4)
        held[2] += 1

    y, u, z, halo = x.clone(), torch.zeros(1, d), torch.empty(1, d), torch.empty(1, d)
    other = 1 - world.rank

    def bare() -> None:
        torch.sub(y, g, alpha=1e-4, out=z)
        requests = [world.Irecv(halo.numpy(), source=other), world.Isend(z.numpy(), dest=other)]
        MPI.Request.Waitall(requests)
        halo.mul_(0.5).add_(z, alpha=0.5)
        u.mul_(0.9).add_(y).sub_(halo)
        y.sub_(u)

    return alternate(world, {"ours": ours, "bare": bare}, rounds=20, turns=10)


def start_up(ranks: int, turns: int = 3) -> tuple[float, float]:
    """Seconds until a run of no work ends on that many ranks, and until importing torch does."""
    experiment = Path(__file__).parent / "no_work.toml"
    ours, torch_alone = [], []
    for _ in range(turns):
        began = time.perf_counter()
        launch(ranks, "-m", "benchmarks.start", str(experiment))
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        launch(ranks, "-c", "from mpi4py import MPI; import torch")
        torch_alone.append(time.perf_counter() - began)
    return sorted(ours)[turns // 2], sorted(torch_alone)[turns // 2]


def measure() -> list[Line]:
    step = json.loads(launch(8, "-m", "benchmarks.mpi", "training_rounds"))
    gossip = json.loads(launch(2, "-m", "benchmarks.mpi", "gossip_rounds"))
    ours, alone = start_up(8)
    return [
        at_least(
            "8 ranks, MLP 784-256-10, ring: rounds a second, ours / bare loop",
            step["ours"],
            step["bare"],
            0.9,
        ),
        at_most(
            "2 ranks, d = 1,000,000: gossip round, ours / raw exchange", gossip["ours"], gossip["bare"], 1.3
        ),
        at_most("8 ranks: start-up, ours / importing torch", ours, alone, 1.4),
    ]


if __name__ == "__main__":
    main("MPI", measure, training_rounds, gossip_rounds)
