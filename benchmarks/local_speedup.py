"""Greedy stages on two ranks against serial back-propagation of the same network on one.

Question: what do two cores gain where no gradient crosses? It needs two free cores: see the load average.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.ranks import launch, main
from benchmarks.timing import Line, at_least

WIDTHS, LAYERS, BATCH, STEPS, TURNS = (512, 1024, 2048), 8, 128, 20, 3


def step_s(width: int, program: Any) -> float:
    """Median seconds a step of the program on the ranks of this job, a stage each."""
    import torch
    from mpi4py import MPI
    from torch import nn

    from decentral.runtime.mpi import MPIDriver
    from decentral.stages.cut import cut_evenly
    from decentral.stages.heads.head_maker import head_maker
    from decentral.stages.layers import network_of
    from decentral.stages.stage import Stage

    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    torch.manual_seed(0)
    layers = [m for _ in range(LAYERS) for m in (nn.Linear(width, width), nn.ReLU())]
    network = network_of(nn.Sequential(*layers, nn.Linear(width, 10)))
    x, y = torch.randn(BATCH, width), torch.randint(10, (BATCH,))
    make = head_maker([(width,)] * LAYERS, (width,), 10, 0)
    times = []
    for _ in range(TURNS + 1):
        stage = Stage(
            world.rank, cut_evenly(LAYERS, world.size), network, lambda p: torch.optim.SGD(p, lr=0.01),
            lambda _: (x, y), STEPS, make_head=make,
        )  # fmt: skip
        trace = MPIDriver({world.rank: program.run(stage)}, list(range(world.size))).run()
        times.append(max(world.allgather(trace.makespan_s)) / STEPS)
    return sorted(times[1:])[TURNS // 2]


def seconds(name: str) -> dict[str, float]:
    """Width -> seconds a step of the program of that name."""
    from decentral.allocator import keep_freed_memory

    keep_freed_memory()
    from decentral.stages.programs import PROGRAMS

    return {str(width): step_s(width, PROGRAMS[name]()) for width in WIDTHS}


def measure() -> list[Line]:
    serial = json.loads(launch(1, "-m", "benchmarks.local_speedup", "seconds", "backprop"))
    greedy = json.loads(launch(2, "-m", "benchmarks.local_speedup", "seconds", "local"))
    return [
        at_least(
            f"8 x {w} MLP, batch {BATCH}: serial back-propagation / greedy on 2 ranks",
            greedy[w],
            serial[w],
            1.75,
        )
        for w in map(str, WIDTHS)
    ]


if __name__ == "__main__":
    main("local speed-up", measure, seconds)
