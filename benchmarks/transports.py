"""Ranks joined by MPI against the same ranks joined by torch.distributed (gloo).

Question: what does a round cost under torchrun, where no MPI is? Both are in one job and take turns. MPI of one host
goes by shared memory and gloo by TCP, so the target says only that torch is no ruin.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from benchmarks.ranks import alternate, launch, main
from benchmarks.timing import Line, at_most

RANKS = 4
SIZES = {"1 k": 1_000, "200 k": 200_000, "1 M": 1_000_000}


def rounds(size: str) -> dict[str, float]:
    """On every rank: seconds a round of DSGD on a ring and of PmSGD, float32, by each transport."""
    from decentral.allocator import keep_freed_memory

    keep_freed_memory()
    import torch
    from mpi4py import MPI

    import topologies
    from decentral.algorithms import DSGD, PmSGD
    from decentral.comm import MPIComm, TorchComm
    from decentral.comm.distributed.joining import joined
    from decentral.rounds.advance import advance

    torch.set_num_threads(1)
    world, d = MPI.COMM_WORLD, SIZES[size]
    w, g = topologies.mixing_matrix(topologies.ring(world.size)), torch.zeros(1, d)
    works = {}
    for name, method in (("ring", DSGD()), ("mean", PmSGD())):
        for carrier, comm in (("mpi", MPIComm(w, world)), ("torch", TorchComm(w, joined()))):
            x = torch.randn(1, d)
            works[f"{name} {carrier}"] = partial(
                _round, [x, method.init(x, comm), 0], method, g, comm, advance
            )
    return alternate(world, works, rounds=10 if d > 100_000 else 50, turns=9)


def _round(held: list[Any], method: Any, g: Any, comm: Any, advance: Any) -> None:
    blocks = [(slice(0, g.shape[1]), g)]
    held[0], held[1] = advance(method, held[0], held[1], blocks, comm, held[2], 1e-4)
    held[2] += 1


def measure() -> list[Line]:
    lines = []
    for size in SIZES:
        times = json.loads(launch(RANKS, "-m", "benchmarks.transports", "rounds", size))
        for name in ("ring", "mean"):
            what = f"{RANKS} ranks, {size} parameters, {name}: a round, gloo / MPI"
            lines.append(at_most(what, times[f"{name} torch"], times[f"{name} mpi"], 10.0))
    return lines


if __name__ == "__main__":
    main("transports", measure, rounds)
