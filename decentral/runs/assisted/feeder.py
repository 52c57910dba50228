"""The Assistant's program: it scans samples, fills the Boss's queue, and learns from reports while enough wait there.

Reference: Zhang, Yu and Dhillon 2019, arXiv:1905.03381 (AutoAssist).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from torch import Tensor

from decentral.problems.assistants.scanning import Scan
from decentral.runs.assisted.boss import BATCHES, REPORTS, STOP
from decentral.runtime.requests import Compute, Program, RecvAny, Send

if TYPE_CHECKING:
    from decentral.problems.assistants.assistant import Assistant, Chooser


class Feeder:
    """Program 1: ``rounds`` batches by ``chooser``, from the samples in the order of ``scan``.

    A batch is waiting until its report has come. ``steps``: reports learned from. ``flops``: of scanning and learning
    so far; ``last_flops``: those of the newest work.
    """

    def __init__(self, settings: Assistant, chooser: Chooser, scan: Scan, rounds: int, like: Tensor) -> None:
        self.chooser, self.scan, self.rounds, self.device = chooser, scan, rounds, like.device
        self.room, self.enough = (1, 0) if settings.synchronous else (settings.queue, settings.enough)
        self.flops = self.last_flops = 0.0
        self.sent = self.heard = self.steps = 0
        self.is_over = False
        self.waiting: deque[Tensor] = deque()  # the samples of batches whose reports have not come
        self.reports: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.room)  # the oldest is dropped

    def run(self) -> Program:
        """The program."""
        while True:
            while (found := (yield RecvAny((REPORTS,), wait=False))) is not None:
                self._hear(found[1])
            if self.is_over:
                return
            waiting, more = len(self.waiting), self.sent < self.rounds
            if more and self.reports and waiting >= self.enough:
                yield Compute("learn", self._learn, tag=self.steps)
            elif more and waiting < self.room:
                yield Send(BATCHES, (yield Compute("scan", self._scan, tag=self.sent)))
            else:
                _, said = yield RecvAny((REPORTS,))
                self._hear(said)

    def _hear(self, told: Tensor | None) -> None:
        if told is not STOP:
            rows = self.waiting.popleft()
            if told.numel():
                self.reports.append((rows, told))
            self.heard += 1
        self.is_over = told is STOP or self.heard == self.rounds

    def _learn(self) -> None:
        rows, told = self.reports.popleft()
        self.chooser.learn(rows, told)
        self._count(self.chooser.learn_flops * len(rows))
        self.steps += 1

    def _scan(self) -> tuple[Any, ...]:
        rows, judged = self.scan.batch(self.chooser, self.device)
        self._count(self.chooser.scan_flops * judged)
        self.waiting.append(rows)
        self.sent += 1
        return rows, self.scan.scanned, self.flops, self.steps, self.heard

    def _count(self, flops: float) -> None:
        self.last_flops = flops
        self.flops += flops
