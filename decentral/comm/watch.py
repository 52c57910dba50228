"""A rank that ends without a word ends the others of its host, whose calls of MPI would never return.

A thread sleeps until the kernel says that a process has ended: that costs the others nothing. Every host watches its
own ranks; where the system is no Linux, nobody is watched.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

_GRACE_S = 3.0  # for this rank to end too, when all have come to their end, or one has ended all


class Watch:
    """Of the processes ``pids``, by rank, until this one, of rank ``rank``, is at its end.

    ``rest()`` returns when all ranks have come to their end: none may go before, or the others would be alarmed.
    When a process ends too early, the first of the others writes a line, and all end with code 1.
    """

    def __init__(self, rank: int, pids: Mapping[int, int], rest: Callable[[], None]) -> None:
        self.rank, self.pids, self._rest, self._at_end = rank, dict(pids), rest, False
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._alive: dict[int, int] = {}  # file descriptor -> rank
        with suppress(AttributeError, OSError):
            self._told.bind(_address(os.getpid()))
            self._alive = {os.pidfd_open(pid): other for other, pid in pids.items()}
        if self._alive:
            threading.Thread(target=self._watch, daemon=True).start()
        atexit.register(self._end)  # runs before MPI ends

    def has_said(self) -> None:
        """This rank is about to end all, and has said why: the others need not."""
        for pid in self.pids.values():
            with suppress(OSError):
                self._told.sendto(b"!", socket.MSG_DONTWAIT, _address(pid))

    def _end(self) -> None:
        self._at_end = True
        self._rest()
        for number in (
            signal.SIGTERM,
            signal.SIGUSR1,
        ):  # for the first of them to end: this one's code is its own
            signal.signal(number, signal.SIG_IGN)

    def _watch(self) -> None:
        poll = select.poll()
        for file in (*self._alive, self._told.fileno()):
            poll.register(file, select.POLLIN)
        happened = {file for file, _ in poll.poll()}
        ended = [self._alive.pop(file) for file in happened & set(self._alive)]
        said = self._told.fileno() in happened
        if self._at_end or said:
            time.sleep(_GRACE_S)  # most often this process is gone before
        speaks = self.rank < min(self._alive.values(), default=self.rank + 1)
        if not speaks and not said:
            said = bool(select.select([self._told], [], [], 1.0)[0])
        if said:
            os._exit(1)
        self.has_said()
        who = f"rank {min(ended)} has" if ended else "another rank has"
        give_up(f"{who} ended without a word, and the others cannot go on without it")


def give_up(text: str) -> None:
    """End this process at once with a line, whatever its main thread waits for."""
    with suppress(OSError):
        os.write(2, f"decentral: {text}\n".encode())
    os._exit(1)


def _address(pid: int) -> str:
    """Of the socket of that process's watch: a name without a file, as Linux has it."""
    return f"\0decentral-{os.getuid()}-{pid}"
