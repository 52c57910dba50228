"""Blocks of columns whose messages travel together: the next ones are posted before the first is waited for.

A method's ``step`` sends and waits in one call. Each block's step therefore runs on a stack of its own (greenlet), and
gives way where it would wait, until so many blocks are under way. Ranks take turns with their blocks alike, so that
they send in the same order, which is how MPI pairs messages of one tag.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm import Communicator


AHEAD = 4
"""Blocks whose messages are under way at once in a round: what they hold is memory."""


class PostingComm:
    """``comm``, but who waits for neighbours gives way to other blocks first: for work inside :func:`in_turns`.

    For communicators whose links do not compress, and without faults.
    """

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    def at(self, t: int, opening: bool = True) -> PostingComm:
        """In round t."""
        return PostingComm(self.comm.at(t, opening))

    @property
    def along(self) -> PostingComm:
        """For a few numbers that travel in the packets of a round's vectors."""
        return PostingComm(self.comm.along)

    def finish(self, pending: Any, out: Tensor | None = None) -> Tensor:
        """As of a Communicator, after other blocks have sent."""
        getcurrent().parent.switch()
        return self.comm.finish(pending, out)

    def mix(self, x: Tensor) -> Tensor:
        """W x."""
        return self.finish(self.comm.start(x))

    def mix_(self, x: Tensor) -> Tensor:
        """W x, giving up x."""
        pending = self.comm.start(x)
        return self.finish(pending, x if pending[0].apart else None)

    def mix_sent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x, W x)."""
        return x, self.mix(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)


def in_turns(works: Iterable[Callable[[], None]], ahead: int) -> None:
    """Do each work; up to ``ahead`` of them have begun, and wait, when the oldest goes on."""
    waiting: deque[Any] = deque()

    def go_on(running: Any) -> None:
        running.switch()
        if not running.dead:
            waiting.append(running)

    for work in works:
        while len(waiting) >= ahead:
            go_on(waiting.popleft())
        go_on(greenlet(work))
    while waiting:
        go_on(waiting.popleft())
