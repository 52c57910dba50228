"""Programs driven to their end: by the virtual clock in one process, and in real time where there are ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from decentral.comm.world import World
from decentral.runtime.clock import Cost, Link, VirtualClock
from decentral.runtime.driver import Driver
from decentral.runtime.requests import Program
from decentral.runtime.trace import MOST, Trace


def clock_of(world: World) -> str:
    """What the time of programs in this world is: "simulated" or "measured"."""
    return "simulated" if world.ranks == 1 else "measured"


def drive(
    programs: Mapping[int, Program],
    host: Sequence[int],
    world: World,
    *,
    cost: Cost,
    link: Callable[[VirtualClock], Link],
    done: Callable[[Driver, int, int], None],
    timeout_s: float = 60.0,
    most_spans: int = MOST,
) -> Trace | None:
    """This rank's programs, by number, to their end; what all did when, on rank 0, and None elsewhere.

    ``host[k]``: the rank of program k. ``cost``, ``link``: what work and messages take on the virtual clock.
    ``done(driver, k, t)``: program k has finished step t. ``timeout_s``: how long ranks wait for each other before they
    are asked who waits for whom. ``most_spans``: what the trace keeps. Every rank calls it.
    """

    def on_done(number: int, t: int) -> None:
        done(driver, number, t)

    driver: Driver
    if world.ranks == 1:
        driver = clock = VirtualClock(programs, cost, on_done=on_done)
        clock.link = link(clock)
        clock.trace.most = most_spans
        return clock.run()
    from decentral.runtime.ranks import RanksDriver, gathered  # here: most runs have no ranks

    driver = ranks = RanksDriver(programs, host, world.mpi, on_done, timeout_s)
    ranks.trace.most = most_spans
    return gathered(ranks.run(), world.mpi)
