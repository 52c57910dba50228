"""The controller counts steps, asks for records, and says when to stop. It has no model, and is no worker.

It is a program of its own, beside worker 0: a worker serves between its computations only, and a slow one would end a
run late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from decentral.runs.asynchronous.worker import CONTROL, ENDED, RATE, SNAPSHOT, STOP
from decentral.runs.divergence import blown_up, loss_limit
from decentral.runtime.requests import Channel, Done, Program, RecvAny, Send


class UnansweredError(RuntimeError):
    """A run has ended, and a message was not answered: a bug in a method."""


class Controller:
    """The program of number n for n workers: ``rounds`` n steps over all of them, however they share them.

    A round is n steps, whoever makes them. ``marks``: ascending rounds after which workers copy their models; the last
    is ``rounds``. ``lr(t)``: the learning rate in round t. ``steps``: counted so far. ``trouble``: why it ended early.
    """

    def __init__(self, workers: int, marks: Sequence[int], lr: Callable[[int], float]) -> None:
        self.n, self.marks, self.lr = workers, list(marks), lr
        self.steps = self.ended = self.asked = self.answered = 0
        self.trouble = ""
        self._limits: dict[int, float] = {}  # of each worker, by its first loss

    @property
    def round(self) -> int:
        """Whole rounds so far."""
        return self.steps // self.n

    def run(self) -> Program:
        """The program. Raises UnansweredError if at the end of all workers a message is left over."""
        rate, marks = self.lr(0), self.marks
        while marks and not self.trouble:
            channel, said = yield RecvAny(())
            self._step(channel.source, *said[1:])
            if self.round >= marks[0]:
                # several may be over at once: all but the last have had no time of their own
                marks[:] = [mark for mark in marks if mark > self.round]
                yield Done(self.round)
                yield from self._tell(SNAPSHOT, self.round)
            if self.steps % self.n == 0 and (new := self.lr(self.round)) != rate:
                rate = new
                yield from self._tell(RATE, rate)
        yield from self._tell(STOP)
        while self.ended < self.n:
            _, (kind, *counts) = yield RecvAny(())
            if kind == ENDED:
                self.ended += 1
                self.asked += counts[0]
                self.answered += counts[1]
        if self.asked != self.answered:
            raise UnansweredError(f"{self.asked} messages were sent and {self.answered} answered")

    def _step(self, worker: int, loss: float) -> None:
        self.steps += 1
        limit = self._limits.setdefault(worker, loss_limit(loss))
        if not loss <= limit:  # catches NaN too
            self.trouble = blown_up(self.round, worker, loss)

    def _tell(self, *words: Any) -> Iterator[Any]:
        for worker in range(self.n):
            yield Send(Channel(self.n, worker, CONTROL), words)
