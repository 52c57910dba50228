"""Ranks that make different numbers of steps: whoever waits for a rank that has ended is told, and does not wait on.

A rank that ends says so to all others, with the number of steps it has made; whoever waits in vain looks for that.
"""

from __future__ import annotations

import atexit
import os
import time
from typing import TYPE_CHECKING, Any, NoReturn

from decentral.errors import UserError

if TYPE_CHECKING:
    from mpi4py import MPI

    from decentral.comm.mixer import Pending

_GONE = 6  # tag
_PATIENCE = 50  # polls in vain before looking for who has ended, and before giving way to other processes


class Departures:
    """Waiting on the communicator ``mpi`` (mpi4py's). ``steps``: those that this rank has made, of all its optimizers.

    ``under_way``: lists of messages that have been posted, as :meth:`Communicator.post` gave them. They are kept here
    even when nobody else remembers them, for MPI goes on reading and writing their memory.
    """

    def __init__(self, mpi: MPI.Comm) -> None:
        self.mpi = mpi
        self.steps = 0
        self.gone: dict[int, int] = {}
        self.under_way: list[list[Pending]] = []
        atexit.register(self._depart)  # runs before MPI ends

    def wait(self, requests: list[Any]) -> None:
        """Wait for all requests. Raises UserError if a rank has ended with fewer steps than this one begins."""
        polls = 0
        while requests and not type(requests[0]).Testall(requests):
            polls += 1
            if polls % _PATIENCE == 0:
                self._look()
                early = [rank for rank, steps in self.gone.items() if steps <= self.steps]
                if early and not type(requests[0]).Testall(requests):
                    self._refuse(min(early))
            if polls > _PATIENCE:
                os.sched_yield()

    def _look(self) -> None:
        while self.mpi.iprobe(tag=_GONE):
            rank, steps = self.mpi.recv(tag=_GONE)
            self.gone[rank] = steps

    def _refuse(self, rank: int) -> NoReturn:
        raise UserError(
            f"rank {rank} has ended after {self.gone[rank]} steps, and rank {self.mpi.rank} waits for it in step "
            f"{self.steps + 1}; let every rank make as many steps (len(loader) differs: stop at the smallest)"
        )

    def _depart(self) -> None:
        """Tell all others, and wait until they end too: messages that are still under way to them need this rank."""
        others = [rank for rank in range(self.mpi.size) if rank != self.mpi.rank]
        said = [self.mpi.isend((self.mpi.rank, self.steps), dest=rank, tag=_GONE) for rank in others]
        while len(self.gone) < len(others):
            self._look()
            time.sleep(0.001)
        if all(steps == self.steps for steps in self.gone.values()):  # else some have no counterpart
            for _, _, request in (pending for posted in self.under_way for pending in posted):
                if request is not None:
                    type(said[0]).Waitall(request[0])
        type(said[0]).waitall(said)


_HERE: list[Departures] = []


def departures_of(mpi: MPI.Comm) -> Departures:
    """The one of this process, made for all ranks of the job: each says once that it ends."""
    if not _HERE:
        _HERE.append(Departures(mpi))
    return _HERE[0]
