"""Ranks that mpi4py joins. This file starts MPI."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.comm.launch import check_launch, send_without_asking, yield_when_oversubscribed
from decentral.comm.layout import Layout
from decentral.comm.links import Links
from decentral.comm.ranks import RanksComm
from decentral.comm.schedule import Mixing
from decentral.comm.starting import starting

yield_when_oversubscribed()
send_without_asking()
import mpi4py  # noqa: E402

mpi4py.rc.thread_level = "funneled"  # only the main thread of a rank speaks MPI
with starting():
    from mpi4py import MPI

__all__ = ["MPI", "MPIComm"]


class MPIComm(RanksComm):
    """h = n / ranks workers on this rank; ``mixing`` is a scipy or numpy matrix (n, n), or a Schedule.

    Every rank must be given the same mixing. Raises ValueError if the ranks do not divide the workers, or, where all
    ranks of the job take part (``world`` is None), have different mixing. For ``links``, ``layout`` and ``check`` see
    Communicator.
    CUDA tensors are handed to MPI where DECENTRAL_CUDA_AWARE=1 says that it can, else staged through
    pinned host memory.
    """

    def __init__(
        self,
        mixing: Mixing,
        world: MPI.Comm | None = None,
        links: Links | None = None,
        layout: Layout | None = None,
        check: bool = True,
    ) -> None:
        mpi = MPI.COMM_WORLD if world is None else world
        check_launch(mpi.size)
        super().__init__(mixing, mpi, world is None, links, layout, check)

    def _send_message(self, message: NDArray[np.uint8], rank: int, tag: int) -> list[Any]:
        return [self.mpi.Isend(message, dest=rank, tag=tag)]

    def _receive_message(self, rank: int, tag: int) -> NDArray[np.uint8]:
        if self.departures is not None:
            self.departures.until(partial(self.mpi.iprobe, rank, tag), "packets")
        status = MPI.Status()
        waiting = self.mpi.Mprobe(source=rank, tag=tag, status=status)
        message = np.empty(status.Get_count(MPI.BYTE), dtype=np.uint8)
        waiting.Recv(message)
        return message
