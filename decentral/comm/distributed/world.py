"""The ranks of a job of torch.distributed: their communicator of workers, and their world."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm.distributed.joining import joined, last_rest
from decentral.comm.distributed.ranks import NOWHERE, TorchRanks
from decentral.comm.layout import Layout
from decentral.comm.links import Links
from decentral.comm.ranks import RanksComm
from decentral.comm.ranks_world import RanksWorld
from decentral.comm.schedule import Mixing


class TorchComm(RanksComm):
    """h = n / ranks workers on this rank; ``mixing`` is a scipy or numpy matrix (n, n), or a Schedule.

    Rows go by gloo; those of GPUs by NCCL where each rank has a GPU of its own, else staged through pinned host memory.
    Every rank must be given the same mixing. Raises ValueError if the ranks do not divide the workers, or, where all
    ranks of the job take part (``world`` is None), have different mixing. For ``links``, ``layout`` and ``check`` see
    Communicator.
    """

    def __init__(
        self,
        mixing: Mixing,
        world: TorchRanks | None = None,
        links: Links | None = None,
        layout: Layout | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(mixing, joined() if world is None else world, world is None, links, layout, check)

    def _swap(
        self, receives: Iterable[tuple[Any, int]], sends: Iterable[tuple[Any, int]], tag: int, like: Tensor
    ) -> list[Any]:
        if like.is_cuda and self._takes_cuda():
            return [self.mpi.cuda.exchange([*receives], [*sends], like)]
        return super()._swap(receives, sends, tag, like)

    def _takes_cuda(self) -> bool:
        return self.mpi.cuda is not None

    def _to_wire(self, x: Tensor) -> Tensor:
        if x.is_cuda and self._takes_cuda():
            return x.contiguous()  # NCCL waits for what computes it
        return super()._to_wire(x)

    def _send_message(self, message: NDArray[np.uint8], rank: int, tag: int) -> list[Any]:
        """Its length, and what it says, in turn."""
        length = np.array([len(message)])
        return [self.mpi.Isend(length, dest=rank, tag=tag), self.mpi.Isend(message, dest=rank, tag=tag)]

    def _receive_message(self, rank: int, tag: int) -> NDArray[np.uint8]:
        length = np.zeros(1, np.int64)
        self._wait([self.mpi.Irecv(length, source=rank, tag=tag)], "packets")
        message = np.empty(length[0], np.uint8)
        self._wait([self.mpi.Irecv(message, source=rank, tag=tag)], "packets")
        return message


class TorchWorld(RanksWorld):
    """The ranks of ``ranks``, by default all of this job."""

    comm, nowhere = TorchComm, NOWHERE

    def __init__(self, ranks: TorchRanks | None = None) -> None:
        super().__init__(joined() if ranks is None else ranks)

    def end_of_all(self) -> Callable[[], None]:
        """See :class:`RanksWorld`: a rank that has left would break a barrier of others."""
        return partial(last_rest, self.mpi)
