"""Ranks of a user's script that do not do the same: whoever waits in vain is told, and does not wait on.

A rank that ends says so to all others, with the number of steps it has made; one that has waited long tells rank 0 what
for. The n-th wait of a script is for the same on every rank, so two ranks that are both in their n-th one, and for
different things, will never go on. Whoever waits in vain looks for such news; who does not wait pays nothing.
"""

from __future__ import annotations

import atexit
import os
import time
import zlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from decentral.errors import AgreedError, UserError

if TYPE_CHECKING:
    from decentral.comm.mixer import Pending

_GONE, _WAITS = 6, 7  # tags
_PATIENCE = 50  # polls in vain before looking for who has ended, and before giving way to other processes
_LONG_S = 2.0  # after which rank 0 is told
_ON_ITS_WAY_S = 0.5


class Departures:
    """Waiting on the communicator ``mpi``: mpi4py's, or what stands for it.

    ``steps``: those that this rank has made, of all its optimizers.
    ``purpose``: what the user has asked for just now, such as "step()"; ``number``: of the optimizer that was asked,
    whose messages have tags of their own.
    ``under_way``: lists of messages that have been posted, as :meth:`Communicator.post` gave them. They are kept here
    even when nobody else remembers them, for MPI goes on reading and writing their memory.
    """

    def __init__(self, mpi: Any) -> None:
        self.mpi = mpi
        self.steps = self.waits = self.number = self.optimizers = 0
        self.purpose = ""
        self.gone: dict[int, int] = {}
        self._of_steps: dict[int, Any] = {}
        self.under_way: list[list[Pending]] = []
        self._waiting: dict[int, tuple[int, str]] = {}  # on rank 0: of each rank its last wait, and what for
        self._latest: deque[tuple[str, str, int, int]] = deque(maxlen=256)  # what the last waits were for
        self._said: list[Any] = []
        atexit.register(self._depart)  # runs before MPI ends

    def enlist(self) -> int:
        """The number of one more optimizer; every rank calls it together."""
        self.optimizers += 1
        self._of_steps[self.optimizers] = self.mpi.Dup()
        return self.optimizers

    def wait(self, requests: list[Any], kind: str = "") -> None:
        """Wait for all requests, which are a ``kind`` of message. Raises UserError where they will never be done."""
        self.until(partial(type(requests[0]).Testall, requests) if requests else _at_once, kind)

    def until(self, is_done: Callable[[], Any], kind: str = "") -> None:
        """Wait until ``is_done()``, which is asked again and again. Raises UserError if that will never be."""
        self._latest.append((self.purpose, kind, self.number, self.steps))
        self.waits += 1
        polls, since = 0, 0.0
        while not is_done():
            polls += 1
            if polls % _PATIENCE == 0:
                if since == 0.0:
                    since = time.monotonic()
                elif since > 0.0 and time.monotonic() - since > _LONG_S:
                    since = -1.0
                    self._tell((self.waits, self._what_for()))
                self._look()
                if self.gone and (early := self._early()) and not _comes(is_done):
                    self._refuse(min(early))
                self._compare()
            if polls > _PATIENCE:
                os.sched_yield()

    def meet(self, kind: str) -> None:
        """Before a collective call: wait until all ranks are here. Raises AgreedError on all if not for the same.

        Steps of an optimizer meet where nothing else does, for a barrier is faster than asking.
        """
        if self.purpose == "step()":
            self.wait([self._of_steps[self.number].Ibarrier()], kind)
            return
        text = self._words(self.purpose, kind, self.number, self.steps)
        mine = np.array([zlib.crc32(text.encode())])
        codes = np.empty(self.mpi.size, mine.dtype)
        self.wait([self.mpi.Iallgather(mine, codes)], kind)
        if (codes != mine).any():
            everyone = self.mpi.allgather(text)
            other = next(rank for rank, text in enumerate(everyone) if text != everyone[0])
            raise AgreedError(_apart(0, everyone[0], other, everyone[other]))

    def _what_for(self, waits: int = 0) -> str:
        """What this rank waits for, or what it has waited for in its n-th wait; "" if it no longer knows."""
        back = self.waits - waits if waits else 0
        return self._words(*self._latest[-1 - back]) if 0 <= back < len(self._latest) else ""

    def _words(self, purpose: str, kind: str, number: int, steps: int) -> str:
        if purpose == "step()":
            return f"step {steps + 1}{f' of optimizer {number}' if self.optimizers > 1 else ''}"
        after = f" after {steps} step{'s' * (steps != 1)}" if self.optimizers else ""
        return f"{purpose or kind}{after}"

    def _tell(self, waits: tuple[int, str]) -> None:
        if self.mpi.rank == 0:
            self._waiting[0] = waits
        else:
            self._said = [request for request in self._said if not request.Test()]
            self._said.append(self.mpi.isend((self.mpi.rank, *waits), dest=0, tag=_WAITS))

    def _look(self) -> None:
        while self.mpi.iprobe(tag=_GONE):
            rank, steps = self.mpi.recv(tag=_GONE)
            self.gone[rank] = steps
        while self.mpi.rank == 0 and self.mpi.iprobe(tag=_WAITS):
            rank, waits, text = self.mpi.recv(tag=_WAITS)
            self._waiting[rank] = waits, text

    def _compare(self) -> None:
        """On rank 0: raise UserError for two ranks that wait for each other's."""
        first: dict[int, tuple[int, str]] = {}
        for rank, (waits, text) in sorted(self._waiting.items()):
            done = self._what_for(waits)
            other, its = (0, done) if done else first.setdefault(waits, (rank, text))
            if text != its:
                raise UserError(_apart(other, its, rank, text))

    def _early(self) -> list[int]:
        return [rank for rank, steps in self.gone.items() if steps <= self.steps]

    def _refuse(self, rank: int) -> NoReturn:
        if self.mpi.rank > min(set(range(self.mpi.size)) - set(self.gone)):
            time.sleep(1)  # one speaks for all
        remedy = "let every rank make the same calls"
        if self.purpose == "step()":
            remedy = "let every rank make as many steps (len(loader) differs: stop at the smallest)"
        after = f" after {self.gone[rank]} steps" if self.optimizers else ""
        raise UserError(
            f"rank {rank} has ended{after}, and rank {self.mpi.rank} waits for it in "
            f"{self._what_for()}; {remedy}"
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
                    requests = request[0]
                    if requests:
                        type(requests[0]).Waitall(requests)
        for message in said:
            message.wait()


def _apart(rank: int, its: str, other: int, others: str) -> str:
    waiting = f"rank {rank} comes to {its}, and rank {other} to {others}"
    return f"{waiting}; let all ranks make the same calls in the same order"


def _comes(is_done: Callable[[], Any]) -> bool:
    """Whether it is done soon: news of an end may be seen before what was sent earlier."""
    until = time.monotonic() + _ON_ITS_WAY_S
    while not (done := is_done()) and time.monotonic() < until:
        os.sched_yield()
    return bool(done)


def _at_once() -> bool:
    """Of nothing: a rank without neighbours in a round counts its wait all the same."""
    return True


TAGS = 16
"""Messages of optimizer k have the tag of their kind and k times so much."""

_HERE: list[Departures] = []


def departures_of(mpi: Any) -> Departures:
    """The one of this process, made for all ranks of the job: each says once that it ends."""
    if not _HERE:
        _HERE.append(Departures(mpi))
    return _HERE[0]
