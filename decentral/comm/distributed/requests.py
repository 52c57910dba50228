"""Messages under way that can be tested, as MPI's can.

A send or a receive of gloo's says that it is done only to who waits for it. So where one is tested, a thread waits;
where it is waited for, none is needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, NoReturn

_GLANCE_S = 1e-3  # how long who looks again and again sleeps at most
_GRACE_S = 5.0  # for this process to be ended, by its watch or the launcher, when another rank is lost
_NEWS = threading.Event()
"""Set when a message that was tested has come or gone."""


class LostRankError(RuntimeError):
    """Another rank has ended, or cannot be reached any more."""


class Request:
    """One message, or one collective operation, of ``work``, torch's; None: it is done. ``memory`` is kept for it."""

    def __init__(self, work: Any = None, memory: Any = None, sends: bool = False) -> None:
        self.work, self._memory, self._sends = work, memory, sends
        self._watched: _Watched | None = None

    def Wait(self) -> None:  # noqa: N802 - MPI's names
        """Until it is done."""
        if self.work is None:
            return
        if self._watched is None:
            try:
                self.work.wait()
            except RuntimeError as error:
                lost(error)
        else:
            self._watched.over.wait()
        self._is_over()

    def Test(self) -> bool:  # noqa: N802
        """Whether it is done."""
        if self.work is None:
            return True
        if self._watched is None:
            self._watched = _Watched([self])
            (_SENDS if self._sends else _RECEIVES).hand(self._watched)
        return self._is_over()

    @staticmethod
    def Waitall(requests: Sequence[Request]) -> None:  # noqa: N802
        """Until all are done."""
        for request in requests:
            request.Wait()

    @staticmethod
    def Testall(requests: Sequence[Request]) -> bool:  # noqa: N802
        """Whether all are done; looks for up to a millisecond."""
        if fresh := [r for r in requests if r.work is not None and r._watched is None]:
            watched = _Watched(fresh)
            for request in fresh:
                request._watched = watched
            _RECEIVES.hand(watched)
        for request in requests:
            if request._watched is not None and not request._watched.over.wait(_GLANCE_S):
                return False
        return all(request._is_over() for request in requests)

    def Cancel(self) -> None:  # noqa: N802
        """Forget a receive that is posted and was never tested; nothing may come for it."""
        self.work = None

    def Free(self) -> None:  # noqa: N802
        """Nothing is kept elsewhere."""

    wait = Wait

    def test(self) -> tuple[bool, None]:
        """As mpi4py has it for values."""
        return self.Test(), None

    def _is_over(self) -> bool:
        if self._watched is not None:
            if not self._watched.over.is_set():
                return False
            if self._watched.error is not None:
                lost(self._watched.error)
        self.work = self._memory = self._watched = None
        return True


class _Watched:
    """Messages that a thread waits for together."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.works = [request.work for request in requests]
        self.over = threading.Event()
        self.error: RuntimeError | None = None

    def wait(self) -> None:
        """Until all are done; another thread then sees ``over``."""
        try:
            for work in self.works:
                work.wait()
        except RuntimeError as error:
            self.error = error
        self.over.set()
        _NEWS.set()


class _Threads:
    """At most so many that wait, begun when none is idle."""

    def __init__(self, most: float) -> None:
        self.most, self._begun = most, 0
        self._idle = threading.Semaphore(0)
        self._queue: SimpleQueue[_Watched] = SimpleQueue()

    def hand(self, watched: _Watched) -> None:
        """Have one wait for these."""
        if self._begun < self.most and not self._idle.acquire(blocking=False):
            self._begun += 1
            threading.Thread(target=self._serve, daemon=True).start()
        self._queue.put(watched)

    def _serve(self) -> None:
        while True:
            self._queue.get().wait()
            self._idle.release()


_RECEIVES = _Threads(float("inf"))
_SENDS = _Threads(
    1
)  # what is sent is received sooner or later, and is looked for only to use its memory again


def idle() -> None:
    """Sleep until something that was tested has come or gone, for a millisecond at most."""
    _NEWS.wait(_GLANCE_S)
    _NEWS.clear()


def lost(error: RuntimeError) -> NoReturn:
    """Raise LostRankError for what torch says of a connection; later, since this process is most often ended first."""
    time.sleep(_GRACE_S)
    said = (str(error).splitlines() or ["it is gone"])[0]
    raise LostRankError(
        f"the connection to another rank is lost, which has ended or cannot be reached ({said})"
    )
