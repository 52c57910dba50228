"""Blocks of columns whose messages travel together: the next ones are posted before the first is waited for.

A method's ``step`` sends and waits in one call. Each block's step therefore runs on a stack of its own (greenlet), and
gives way where it would wait, until so many blocks are under way. Ranks take turns with their blocks alike, so that
they send in the same order, which is how MPI pairs messages of one tag.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from greenlet import getcurrent, greenlet

from decentral.comm.stand_ins import Around

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Pending


AHEAD = 4
"""Blocks whose messages are under way at once in a round: what they hold is memory."""


class PostingComm(Around):
    """``comm``, but who waits for neighbours gives way to other blocks first: for work inside :func:`in_turns`.

    For communicators whose links do not compress, and without faults.
    """

    def at(self, t: int, opening: bool = True) -> PostingComm:
        """In round t."""
        return PostingComm(self.comm.at(t, opening))

    @property
    def along(self) -> PostingComm:
        """For a few numbers that travel in the packets of a round's vectors."""
        return PostingComm(self.comm.along)

    def finish(self, pending: Pending, out: Tensor | None = None) -> Tensor:
        """See :class:`Mixer`, after other blocks have sent."""
        getcurrent().parent.switch()
        return self.comm.finish(pending, out)


def in_turns(works: Iterable[Callable[[], None]], ahead: int) -> None:
    """Do each work; up to ``ahead`` of them have begun, and wait, when the oldest goes on."""
    waiting: deque[greenlet] = deque()

    def go_on(running: greenlet) -> None:
        running.switch()
        if not running.dead:
            waiting.append(running)

    for work in works:
        while len(waiting) >= ahead:
            go_on(waiting.popleft())
        go_on(greenlet(work))
    while waiting:
        go_on(waiting.popleft())
