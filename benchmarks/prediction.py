"""The virtual clock, fed with measured stage times, against the real makespan on two ranks.

Question: does a prediction from a cost table hold? Only where two cores are really free: two spinning processes are
timed first, beside one alone, and the line says so when they are not.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.ranks import cores_note, launch, main, slowed
from benchmarks.timing import Line, at_most, ms

WIDTH, LAYERS, BATCH, STEPS, TURNS = 1024, 8, 256, 30, 3
PROGRAMS = ("backprop", "gpipe", "local")


def makespans() -> dict[str, Any]:
    """On two ranks: program -> (predicted, real) seconds of all steps; "slowed": two spinning ranks against one."""
    from decentral.allocator import keep_freed_memory

    keep_freed_memory()
    import torch
    from mpi4py import MPI
    from torch import nn

    from decentral.comm.mpi_world import MPIWorld
    from decentral.runtime import VirtualClock
    from decentral.runtime.mpi import MPIDriver
    from decentral.stages import programs
    from decentral.stages.cut import cut_evenly
    from decentral.stages.heads.head_maker import head_maker
    from decentral.stages.layers import network_of
    from decentral.stages.profile import profile
    from decentral.stages.stage import Stage

    torch.set_num_threads(1)
    world, everyone = MPI.COMM_WORLD, MPIWorld()
    torch.manual_seed(0)
    layers = [m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    network = network_of(nn.Sequential(*layers, nn.Linear(WIDTH, 10)))
    batch = torch.randn(BATCH, WIDTH), torch.randint(10, (BATCH,))
    make = head_maker([(WIDTH,)] * LAYERS, (WIDTH,), 10, 0)

    def stages(steps: int) -> list[Stage]:
        spans = cut_evenly(LAYERS, 2)
        return [
            Stage(
                k,
                spans,
                network,
                lambda p: torch.optim.SGD(p, lr=0.0),
                lambda _: batch,
                steps,
                make_head=make,
            )
            for k in range(2)
        ]

    found: dict[str, Any] = {"slowed": slowed(everyone)}
    for name in PROGRAMS:
        program = programs.PROGRAMS[name]()
        costs = everyone.from_root(lambda program=program: dict(profile(program, stages).seconds))
        clock = VirtualClock(
            {s.index: program.run(s) for s in stages(STEPS)}, lambda k, kind, c=costs: c[k, kind]
        )
        predicted = clock.run().makespan_s
        real = []
        for _ in range(TURNS):
            trace = MPIDriver({world.rank: program.run(stages(STEPS)[world.rank])}, [0, 1]).run()
            real.append(max(world.allgather(trace.makespan_s)))
        found[name] = [predicted, sorted(real)[TURNS // 2]]
    return found


def measure() -> list[Line]:
    found = json.loads(launch(2, "-m", "benchmarks.prediction", "makespans"))
    cores = cores_note(found["slowed"])
    lines = []
    for name in PROGRAMS:
        predicted, real = found[name]
        shown = f"{name}: predicted {ms(predicted)} for {ms(real)} on 2 ranks, off by{cores}"
        lines.append(at_most(shown, abs(predicted - real), real, 0.15))
    return lines


if __name__ == "__main__":
    main("prediction", measure, makespans)
