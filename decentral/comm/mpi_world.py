"""The ranks of an MPI job as a :class:`decentral.comm.world.World`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm.launch import check_launch, local_rank
from decentral.comm.meeting import meet
from decentral.comm.mpi import HALO, MADE, MPI, POSTED, MPIComm, as_array, as_buffer
from decentral.comm.schedule import Mixing
from decentral.comm.watch import Watch
from topologies.wording import one_line

T = TypeVar("T")

_MET: list[MPIWorld] = []
"""That of this process, once it has met the others."""


class MPIWorld:
    """The ranks of ``mpi``, by default all of this job."""

    def __init__(self, mpi: MPI.Comm | None = None) -> None:
        self.mpi = MPI.COMM_WORLD if mpi is None else mpi
        self.rank: int = self.mpi.rank
        self.ranks: int = self.mpi.size
        self.local_rank = local_rank()
        self.watch: Watch | None = None
        self._posts: list[Any] = []
        check_launch(self.ranks)

    @classmethod
    def meeting(cls, command: str) -> MPIWorld:
        """All ranks of this job, which run ``command`` alike, and from now on watch each other."""
        if not _MET:
            world = cls()
            if world.ranks > 1:
                world.local_rank, pids = meet(world.rank, world.agree, command)
                world.watch = Watch(world.rank, pids, cls(world.mpi.Dup()).rest)
            _MET.append(world)
        return _MET[0]

    def communicator(self, mixing: Mixing) -> MPIComm:
        """An MPIComm over all ranks."""
        return MPIComm(mixing, self.mpi, check=False)

    def first(self, ranks: int) -> MPIWorld | None:
        """See :class:`World`."""
        part = self.mpi.Split(self.rank < ranks, self.rank)
        if self.rank >= ranks:
            return None
        world = MPIWorld(part)
        world.local_rank, world.watch = self.local_rank, self.watch
        return world

    def rest(self) -> None:
        """See :class:`World`."""
        request = self.mpi.Ibarrier()
        while not request.Test():
            time.sleep(0.005)

    def host_names(self) -> list[str]:
        """See :class:`World`."""
        return self.agree(MPI.Get_processor_name())

    def exchange(self, outgoing: Tensor, incoming: Tensor, partner: int) -> Callable[[], object]:
        """See :class:`World`."""
        requests = [
            self.mpi.Isend(as_buffer(outgoing), dest=partner, tag=HALO),
            self.mpi.Irecv(as_buffer(incoming), source=partner, tag=HALO),
        ]
        return lambda: MPI.Request.Waitall(requests)

    def without_messages(self, mixing: Mixing) -> MPIComm:
        """See :class:`World`."""
        return MPIComm(mixing, _Unsent(self.mpi), check=False)  # type: ignore[arg-type]

    def from_root(self, make: Callable[[], T]) -> T:
        """See :class:`World`."""
        if self.rank == 0:
            made = make()
            MPI.Request.waitall([self.mpi.isend(made, dest=rank, tag=MADE) for rank in range(1, self.ranks)])
            return made
        while not self.mpi.iprobe(source=0, tag=MADE):
            time.sleep(0.001)  # a broadcast would spin, and take the core that rank 0 needs
        received: T = self.mpi.recv(source=0, tag=MADE)
        return received

    def post(self, value: Any) -> None:
        """See :class:`World`."""
        self._posts = [request for request in self._posts if not request.test()[0]]
        self._posts.append(self.mpi.isend(value, dest=0, tag=POSTED))

    def posted(self) -> list[Any]:
        """See :class:`World`."""
        found = []
        while self.mpi.iprobe(tag=POSTED):
            found.append(self.mpi.recv(tag=POSTED))
        return found

    def agree(self, value: T) -> list[T]:
        """See :class:`World`."""
        everyone: list[T] = self.mpi.allgather(value)
        return everyone

    def collect(self, rows: Tensor) -> Tensor | None:
        """See :class:`World`."""
        mine = rows.detach().cpu().contiguous()
        counts = self.mpi.gather(mine.shape[0], root=0)
        if counts is None:
            self.mpi.Gatherv([as_array(mine), mine.nbytes, MPI.BYTE], None, root=0)
            return None
        whole = torch.empty((sum(counts), *mine.shape[1:]), dtype=mine.dtype)
        width = mine.itemsize * math.prod(mine.shape[1:])
        sizes = [count * width for count in counts]
        self.mpi.Gatherv([as_array(mine), mine.nbytes, MPI.BYTE], [as_array(whole), sizes, MPI.BYTE], root=0)
        return whole

    def abort(self, text: str, code: int = 1, before: str = "") -> NoReturn:
        """See :class:`World`."""
        print(f"{before}decentral: rank {self.rank}: {one_line(text)}", file=sys.stderr, flush=True)
        if self.watch is not None:
            self.watch.has_said()
        time.sleep(0.1)  # a launcher that is told to end all may not read on
        self.mpi.Abort(code)
        raise SystemExit(code)


class _Unsent:
    """A communicator that does what a rank does itself, its copies included, and sends nothing.

    Memory that would receive is filled with ones when it is first seen: what lies there by chance might be numbers so
    small that arithmetic with them is slow.
    """

    def __init__(self, mpi: MPI.Comm) -> None:
        self.mpi, self.rank, self.size = mpi, mpi.rank, mpi.size
        self._seen: set[int] = set()

    def Irecv(self, buffer: Any, source: int, tag: int) -> Any:  # noqa: N802 - MPI's names
        self._fill(buffer[0])
        return self.mpi.Irecv(buffer, source=MPI.PROC_NULL, tag=tag)

    def Isend(self, buffer: Any, dest: int, tag: int) -> Any:  # noqa: N802
        return self.mpi.Isend(buffer, dest=MPI.PROC_NULL, tag=tag)

    def Alltoallv(self, outgoing: Any, incoming: Any) -> None:  # noqa: N802
        a, b = int(sum(outgoing[1][: self.rank])), int(sum(incoming[1][: self.rank]))
        count = int(incoming[1][self.rank])
        self._fill(incoming[0])
        incoming[0].reshape(-1)[b : b + count] = outgoing[0].reshape(-1)[a : a + count]

    def Allgatherv(self, outgoing: Any, incoming: Any) -> None:  # noqa: N802
        a = int(sum(incoming[1][: self.rank]))
        self._fill(incoming[0])
        incoming[0].reshape(-1)[a : a + outgoing[0].size] = outgoing[0].reshape(-1)

    def _fill(self, memory: NDArray[Any]) -> None:
        if memory.ctypes.data not in self._seen:
            self._seen.add(memory.ctypes.data)
            memory.fill(1)
