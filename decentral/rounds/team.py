"""Threads that share the blocks of a round: one parallel region a round, however busy the machine is.

torch divides each operation over its threads, so a round of blocks is hundreds of short regions, and each waits for its
last thread: with one other process on a core a round took 30 times as long. Here every thread computes alone and takes
the next block when it has done one. A thread that the machine does not run holds up one block, not all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import cache
from queue import SimpleQueue

import torch

from decentral.comm.launch import one_thread

Work = Callable[[], None]


def share(works: Iterable[Work], threads: int) -> None:
    """Call all ``works``, in their order but several at a time, on this thread and ``threads`` - 1 others.

    ``works`` is asked for the next by one thread at a time. All have ended on return; the first error is raised.
    """
    region = _Region(works)
    others = _others(threads - 1, os.getpid())
    for _ in range(threads - 1):
        others.put(region)
    with one_thread():
        region.lead()


class _Region:
    """Works that are under way. Who comes when they are done goes again; nobody waits for one who has not come."""

    def __init__(self, works: Iterable[Work]) -> None:
        self.works, self.grad = iter(works), torch.is_grad_enabled()
        self.taking, self.helping = threading.Lock(), threading.Condition()
        self.inside, self.closed = 0, False
        self.error: BaseException | None = None

    def lead(self) -> None:
        try:
            self._work()
        finally:
            with self.helping:
                self.closed = True
                self.helping.wait_for(lambda: not self.inside)
        if self.error is not None:
            raise self.error

    def help(self) -> None:
        with self.helping:
            if self.closed:
                return
            self.inside += 1
        try:
            with torch.set_grad_enabled(self.grad):
                self._work()
        except BaseException as error:
            self.error = error
        finally:
            with self.helping:
                self.inside -= 1
                self.helping.notify()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Work | None:
        with self.taking:
            return None if self.error else next(self.works, None)


@cache
def _others(count: int, process: int) -> SimpleQueue[_Region]:
    """``count`` threads that help with what is put; a forked process has none of its parent's."""
    del process
    queue: SimpleQueue[_Region] = SimpleQueue()
    ready = threading.Barrier(count + 1)

    def help_all() -> None:
        torch.set_num_threads(1)  # of this thread; but also what MKL and later threads begin with
        ready.wait()
        while True:
            queue.get().help()

    with one_thread():  # puts that back
        for _ in range(count):
            threading.Thread(target=help_all, name="decentral-round", daemon=True).start()
        ready.wait()
    return queue
