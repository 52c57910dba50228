"""The driver of the ranks of an MPI job, for who has no world at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from decentral.comm.launch import check_launch
from decentral.comm.mpi import MPI
from decentral.runtime import ranks
from decentral.runtime.requests import Program
from decentral.runtime.trace import Trace


class MPIDriver(ranks.RanksDriver):
    """A RanksDriver on ``world``, by default all ranks of the job."""

    def __init__(
        self,
        programs: Mapping[int, Program],
        host: Sequence[int],
        on_done: Callable[[int, int], None] | None = None,
        timeout_s: float = 60.0,
        world: MPI.Comm | None = None,
    ) -> None:
        check_launch(MPI.COMM_WORLD.size)
        super().__init__(programs, host, MPI.COMM_WORLD if world is None else world, on_done, timeout_s)


def gathered(trace: Trace, world: MPI.Comm | None = None) -> Trace | None:
    """See :func:`decentral.runtime.ranks.gathered`."""
    return ranks.gathered(trace, MPI.COMM_WORLD if world is None else world)
