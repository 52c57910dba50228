"""The ranks of a job, of MPI or torch.distributed, as a :class:`decentral.comm.world.World`."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm.launch import local_rank
from decentral.comm.meeting import meet
from decentral.comm.ranks import HALO, MADE, POSTED, RanksComm, as_array
from decentral.comm.schedule import Mixing
from decentral.comm.watch import Watch
from topologies.wording import one_line

T = TypeVar("T")

_MET: list[RanksWorld] = []
"""That of this process, once it has met the others."""


class RanksWorld:
    """The ranks of ``mpi``: mpi4py's communicator, or what stands for it.

    ``comm``: its class of communicators of workers; ``nowhere``: a rank that messages to and from are nothing.
    """

    comm: ClassVar[Any]
    nowhere: ClassVar[int]

    def __init__(self, mpi: Any) -> None:
        self.mpi = mpi
        self.rank: int = mpi.rank
        self.ranks: int = mpi.size
        self.local_rank = local_rank()
        self.watch: Watch | None = None
        self._posts: list[Any] = []

    @classmethod
    def meeting(cls, mpi: Any, command: str) -> RanksWorld:
        """All ranks of this job, which run ``command`` alike, and from now on watch each other."""
        if not _MET:
            world = cls(mpi)
            if world.ranks > 1:
                world.local_rank, pids = meet(world.rank, world.agree, command)
                world.watch = Watch(world.rank, pids, world.end_of_all())
            _MET.append(world)
        return _MET[0]

    def end_of_all(self) -> Callable[[], None]:
        """What each rank calls when it has come to its end, and returns when all have."""
        return type(self)(self.mpi.Dup()).rest

    def communicator(self, mixing: Mixing) -> RanksComm:
        """Over all ranks."""
        communicator: RanksComm = self.comm(mixing, self.mpi, check=False)
        return communicator

    def first(self, ranks: int) -> Self | None:
        """See :class:`World`."""
        part = self.mpi.Split(self.rank < ranks, self.rank)
        if self.rank >= ranks:
            return None
        world = type(self)(part)
        world.local_rank, world.watch = self.local_rank, self.watch
        return world

    def rest(self) -> None:
        """See :class:`World`."""
        request = self.mpi.Ibarrier()
        while not request.Test():
            time.sleep(0.005)

    def host_names(self) -> list[str]:
        """See :class:`World`."""
        return self.agree(platform.node())

    def exchange(self, outgoing: Tensor, incoming: Tensor, partner: int) -> Callable[[], object]:
        """See :class:`World`."""
        requests = [
            self.mpi.Isend(as_array(outgoing), dest=partner, tag=HALO),
            self.mpi.Irecv(as_array(incoming), source=partner, tag=HALO),
        ]
        return lambda: type(requests[0]).Waitall(requests)

    def without_messages(self, mixing: Mixing) -> RanksComm:
        """See :class:`World`."""
        communicator: RanksComm = self.comm(mixing, _Unsent(self.mpi, self.nowhere), check=False)
        return communicator

    def from_root(self, make: Callable[[], T]) -> T:
        """See :class:`World`."""
        if self.rank == 0:
            made = make()
            sent = [self.mpi.isend(made, dest=rank, tag=MADE) for rank in range(1, self.ranks)]
            for request in sent:
                request.wait()
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
            self.mpi.Gatherv(_bytes(mine), None, root=0)
            return None
        whole = torch.empty((sum(counts), *mine.shape[1:]), dtype=mine.dtype)
        width = mine.itemsize * math.prod(mine.shape[1:])
        sizes = [count * width for count in counts]
        self.mpi.Gatherv(_bytes(mine), [_bytes(whole), sizes], root=0)
        return whole

    def abort(self, text: str, code: int = 1, before: str = "") -> NoReturn:
        """See :class:`World`."""
        print(f"{before}decentral: rank {self.rank}: {one_line(text)}", file=sys.stderr, flush=True)
        if self.watch is not None:
            self.watch.has_said()
        time.sleep(0.1)  # a launcher that is told to end all may not read on
        self.mpi.Abort(code)
        raise SystemExit(code)


def _bytes(x: Tensor) -> NDArray[np.uint8]:
    memory: NDArray[np.uint8] = x.view(-1).view(torch.uint8).numpy()
    return memory


class _Unsent:
    """A communicator that does what a rank does itself, its copies included, and sends nothing.

    Memory that would receive is filled with ones when it is first seen: what lies there by chance might be numbers so
    small that arithmetic with them is slow.
    """

    def __init__(self, mpi: Any, nowhere: int) -> None:
        self.mpi, self.nowhere, self.rank, self.size = mpi, nowhere, mpi.rank, mpi.size
        self._seen: set[int] = set()

    def Irecv(self, buffer: Any, source: int, tag: int) -> Any:  # noqa: N802 - MPI's names
        self._fill(buffer)
        return self.mpi.Irecv(buffer, source=self.nowhere, tag=tag)

    def Isend(self, buffer: Any, dest: int, tag: int) -> Any:  # noqa: N802
        return self.mpi.Isend(buffer, dest=self.nowhere, tag=tag)

    def Alltoallv(self, outgoing: Any, incoming: Any) -> None:  # noqa: N802
        a, b = int(sum(outgoing[1][: self.rank])), int(sum(incoming[1][: self.rank]))
        count = int(incoming[1][self.rank])
        self._fill(incoming[0])
        incoming[0].reshape(-1)[b : b + count] = outgoing[0].reshape(-1)[a : a + count]

    def Allgatherv(self, outgoing: Any, incoming: Any) -> None:  # noqa: N802
        a = int(sum(incoming[1][: self.rank]))
        self._fill(incoming[0])
        incoming[0].reshape(-1)[a : a + outgoing.size] = outgoing.reshape(-1)

    def _fill(self, memory: NDArray[Any]) -> None:
        if memory.ctypes.data not in self._seen:
            self._seen.add(memory.ctypes.data)
            memory.fill(1)
