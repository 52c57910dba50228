"""What each rank did when, in some rounds from the middle of a run: the measured timeline of rounds of workers.

At any moment of a round a rank does one of these things:

- "compute": the gradients at x;
- "attack": adversarial examples, on a rank that makes them for another;
- "update": the method's arithmetic, mixing the rows that are here included;
- "send": packing and encoding what others need, and posting the messages;
- "wait": until the messages have come and its own have left; also all of an exact mean's collectives.

What lies between rounds, records and checks, is in none of them, and is cut out where all ranks are at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from torch import Tensor

from decentral.comm import Communicator
from decentral.comm.world import World
from decentral.runtime.pauses import Interval, common, cut_out
from decentral.runtime.trace import Span, Trace

ROUNDS = 8


def middle(rounds: int, begun: int) -> range:
    """The rounds to watch of so many; in a run that goes on among them as many from there, and none after them."""
    first = max(0, rounds // 2 - ROUNDS // 2)
    if begun >= min(first + ROUNDS, rounds):
        return range(0)
    first = max(first, begun)
    return range(first, min(first + ROUNDS, rounds))


class Stopwatch:
    """The spans of this rank, by its own clock. A communicator that has it as ``watch`` says when it does what."""

    def __init__(self, rank: int, device: torch.device) -> None:
        self.rank, self.device = rank, device
        self.spans: list[Span] = []
        self.pauses: list[Interval] = []
        self.t = 0
        self._doing: str | None = None
        self._since_s = 0.0

    @contextmanager
    def round(self, t: int, comm: Communicator) -> Iterator[None]:
        """Round t is made inside."""
        self.t, ended_s = t, self._since_s
        self.switch("compute")
        if self.spans:
            self.pauses.append((ended_s, self._since_s))
        comm.watch = self
        yield
        comm.watch = None
        self.switch(None)

    def switch(self, kind: str | None) -> None:
        """From here on this rank does ``kind``."""
        if kind == self._doing:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # kernels run on after the call that started them
        now = perf_counter()
        if self._doing is not None:
            self.spans.append(Span(self.rank, self._doing, self._since_s, now, self.t))
        self._doing, self._since_s = kind, now

    def computing(self, gradient: Iterable[tuple[slice, Tensor]]) -> Iterator[tuple[slice, Tensor]]:
        """The blocks of a gradient, which may be computed as they are asked for."""
        blocks = iter(gradient)
        while True:
            self.switch("compute")
            block = next(blocks, None)
            self.switch("update")
            if block is None:
                return
            yield block


def gathered_rounds(watch: Stopwatch, world: World, lane: str) -> Trace | None:
    """The spans of all ranks as one trace that begins at 0, on rank 0; None elsewhere. Every rank calls it.

    ``lane``: what a rank is: "worker" where it hosts one. Cost: some barriers, to compare clocks, and one gather.
    """
    from decentral.runtime.ranks import common_start, gathered

    here = common_start(world.mpi)
    trace = Trace("measured", [_moved(s, -here) for s in watch.spans], lane=lane)
    pauses = [(begin - here, end - here) for begin, end in watch.pauses]
    cut_out(trace, common(world.agree(pauses)))
    whole = gathered(trace, world.mpi)
    if whole is not None:
        first = min(s.start_s for s in whole.spans)
        whole.spans = [_moved(s, -first) for s in whole.spans]
        whole.makespan_s = max(s.end_s for s in whole.spans)
    return whole


def _moved(span: Span, by_s: float) -> Span:
    return span._replace(start_s=span.start_s + by_s, end_s=span.end_s + by_s)
