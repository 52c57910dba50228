"""Ranks beside those that host workers: all ranks of a run, and how they end together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from decentral.comm import Communicator
from decentral.comm.world import LocalWorld, World
from decentral.problems.objective import Objective
from decentral.runs import stopping
from decentral.runs.journal import Outcome
from decentral.runs.place import Here
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.rounds.timeline import Stopwatch
from decentral.runtime.trace import Trace


class Company:
    """The first ``hosting`` ranks host workers, the others work for these.

    ``workers``: the world of those that host workers; None elsewhere. ``mpi``: for what both kinds say to each other.
    """

    def __init__(self, run: RoundsRun, here: Here, hosting: int) -> None:
        self.run, self.here, self.whole, self.hosting = run, here, here.world, hosting
        self.mpi = self.whole.mpi.Dup()
        self.workers: World | None
        if hosting == 1:
            self.workers = LocalWorld() if self.whole.rank == 0 else None
        else:
            self.workers = self.whole.first(hosting)

    def furnish(self, objective: Objective, comm: Communicator) -> None:
        """The objective of a rank of workers knows who works for it."""
        raise NotImplementedError

    def gathered(self, watch: Stopwatch) -> Trace | None:
        """See :func:`gathered_rounds`, of all ranks; workers' ranks call it."""
        raise NotImplementedError

    def serve(self) -> None:
        """What a rank without workers does, to the end."""
        raise NotImplementedError

    def let_go(self) -> None:
        """A rank of workers tells those who work for it that this is the end."""
        raise NotImplementedError

    def train(self, train: Callable[[World], Outcome]) -> Outcome:
        """What ``train`` gives in the workers' world, on every rank. Raises Stopped on all where all workers do."""
        ended: Any = None
        if self.workers is None:
            with stopping.put_off():
                self.serve()
        else:
            try:
                ended = train(self.workers)
            except stopping.Stopped as error:
                if not error.by_all:
                    raise
                ended = int(error.number), error.rank
            self.let_go()
        ended = self.whole.from_root(lambda: ended)
        self.mpi.Free()
        if isinstance(ended, Outcome):
            return ended
        number, rank = ended
        raise stopping.Stopped(number, True, rank)


def resting(watch: Stopwatch) -> None:
    """Between its spans the rank rests: for :func:`gathered_rounds`."""
    ends = [end for span in watch.spans for end in (span.start_s, span.end_s)]
    ends = [-float("inf"), *ends, float("inf")]
    watch.pauses = list(zip(ends[::2], ends[1::2], strict=True))
