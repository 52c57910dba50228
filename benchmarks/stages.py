"""Stages: what the MPI driver adds to the work of two stages, and how many messages a second the virtual clock grants.

Questions: does a pipeline over ranks run at the pace of its stages' own work? Is the clock fast enough for long runs
of many stages? The first needs two free cores, which is looked at in the same job.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.ranks import cores_note, launch, main
from benchmarks.timing import Line, at_most

ROWS, WIDTH = 512, 512  # a boundary of 1 MB in float32
WORK_S = 5e-3
STEPS, TURNS = 150, 5
MESSAGES_A_SECOND = 300_000


def stage_work(world: Any) -> Callable[[Any], Any]:
    """A function of a boundary that gives one, in about WORK_S on one core; the same on all ranks."""
    import torch

    torch.set_num_threads(1)
    x, w = torch.randn(ROWS, WIDTH), torch.randn(WIDTH, WIDTH) / WIDTH**0.5
    times = []
    for _ in range(100):
        began = time.perf_counter()
        torch.mm(x, w)
        times.append(time.perf_counter() - began)
    products = world.bcast(max(1, round(WORK_S / min(times))))

    def work(x: Any) -> Any:
        for _ in range(products):
            x = torch.mm(x, w)
        return x

    return work


def overhead() -> dict[str, float]:
    """On 2 ranks: median seconds a step of rank 0's work alone, of both ranks' work at once, and with the driver.

    ``bare``: a hand-written loop that sends each step's boundary; ``one_way``: the driver, the same. ``both_ways``:
    stage 1 also sends one back, which stage 0 takes two steps later, as an asynchronous pipeline does. Channels hold
    two messages. The slower rank counts.
    """
    from decentral.allocator import keep_freed_memory

    keep_freed_memory()
    import torch
    from mpi4py import MPI

    from decentral.runtime import Channel, Compute, Program, Recv, Send
    from decentral.runtime.mpi import MPIDriver

    world = MPI.COMM_WORLD
    work = stage_work(world)
    x = torch.randn(ROWS, WIDTH)
    up, down = Channel(0, 1, "up", 2), Channel(1, 0, "down", 2)

    def first(back: bool) -> Program:
        for t in range(STEPS):
            y = yield Compute("work", work, x)
            yield Send(up, y)
            if back and t >= 2:
                yield Recv(down)

    def second(back: bool) -> Program:
        for t in range(STEPS):
            y = yield Compute("work", work, (yield Recv(up)))
            if back and t < STEPS - 2:
                yield Send(down, y)

    def alone() -> float:
        """Rank 1 sleeps meanwhile: a barrier would keep its core."""
        if world.rank == 1:
            time.sleep(1.5 * STEPS * WORK_S)
            return 0.0
        return pure()

    def pure() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            work(x)
        return time.perf_counter() - began

    rooms = [torch.empty(ROWS, WIDTH) for _ in range(2)]  # one is sent or received, the other is worked on

    def bare() -> float:
        flying = [MPI.REQUEST_NULL, MPI.REQUEST_NULL]
        world.Barrier()
        began = time.perf_counter()
        if world.rank == 0:
            for t in range(STEPS):
                y = work(x)
                flying[t % 2].Wait()
                rooms[t % 2].copy_(y)
                flying[t % 2] = world.Isend(rooms[t % 2].numpy(), dest=1)
        else:
            flying[0] = world.Irecv(rooms[0].numpy(), source=0)
            for t in range(STEPS):
                if t + 1 < STEPS:
                    flying[(t + 1) % 2] = world.Irecv(rooms[(t + 1) % 2].numpy(), source=0)
                while not flying[t % 2].Test():
                    os.sched_yield()
                work(rooms[t % 2])
        MPI.Request.Waitall(flying)
        return time.perf_counter() - began

    def driven(back: bool) -> float:
        program = (first, second)[world.rank](back)
        return MPIDriver({world.rank: program}, host=[0, 1]).run().makespan_s

    runs = {
        "alone": alone,
        "pure": pure,
        "bare": bare,
        "one_way": lambda: driven(False),
        "both_ways": lambda: driven(True),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, run in runs.items():
            world.Barrier()
            slower = world.allreduce(run(), MPI.MAX) / STEPS
            if turn:
                times[name].append(slower)
    return {name: median(values) for name, values in times.items()}


def clock_message_s(messages: int = 200_000) -> float:
    """Seconds a message of the virtual clock: two stages that send small values to and fro, no work."""
    from decentral.runtime import Channel, Program, Recv, Send, VirtualClock

    to, fro = Channel(0, 1, "to"), Channel(1, 0, "fro")

    def program(out: Channel, into: Channel) -> Program:
        for i in range(messages // 2):
            yield Send(out, i)
            yield Recv(into)

    clock = VirtualClock({0: program(to, fro), 1: program(fro, to)}, cost=lambda stage, kind: 0.0)
    began = time.perf_counter()
    clock.run()
    return (time.perf_counter() - began) / messages


def measure() -> list[Line]:
    found = json.loads(launch(2, "-m", "benchmarks.stages", "overhead"))
    slowed = found["pure"] / found["alone"]
    cores = cores_note(slowed)
    message_s = sorted(clock_message_s() for _ in range(5))[2]
    return [
        at_most(f"2 stages, 1 MB boundaries: step, driver / its work{cores}", found["one_way"], found["pure"], 1.05),
        at_most("the same, driver / bare mpi4py loop", found["one_way"], found["bare"], 1.05),
        at_most("the same, boundaries both ways: driver / its work", found["both_ways"], found["pure"], 1.05),
        at_most(
            f"virtual clock: a message, against {MESSAGES_A_SECOND:,} a second",
            message_s, 1 / MESSAGES_A_SECOND, 1.0, lambda s: f"{s * 1e6:.2f} us",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main("stages", measure, overhead)
