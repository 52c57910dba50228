"""A rank beside each rank of workers, which makes adversarial examples for it while it computes gradients.

Ranks 0 .. r - 1 of 2 r host the workers, and train as if they were alone; rank r + k attacks for rank k. Batches are
functions of the seed and the round, so a worker's rank sends models (h, d) and gets inputs, and nothing else travels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentral.comm import Communicator
from decentral.comm.ranks import giving_way
from decentral.problems.adversarial_objective import AdversarialObjective
from decentral.problems.objective import Objective
from decentral.problems.oracles import Batches
from decentral.runs.place import Here, place_of
from decentral.runs.rounds.company import Company, resting
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.rounds.timeline import Stopwatch, gathered_rounds
from decentral.runs.sections.adversarial import worker_ranks
from decentral.runtime.trace import Trace

_ORDER, _MODELS, _EXAMPLES = 1, 2, 3  # tags
_MAKE, _GATHER, _END = range(3)  # orders


class Pairs(Company):
    """All ranks of a run, and this one's partner."""

    def __init__(self, run: RoundsRun, here: Here) -> None:
        super().__init__(run, here, here.world.ranks // 2)
        self.partner = (self.whole.rank + self.hosting) % self.whole.ranks
        self.beside = Beside(self)

    @classmethod
    def of(cls, run: RoundsRun, here: Here) -> Pairs | None:
        """None where every rank hosts workers."""
        ranks = here.world.ranks
        return cls(run, here) if worker_ranks(run.adversarial, run.workers, ranks) < ranks else None

    def order(self, what: int, t: int = 0, watched: bool = False) -> None:
        """Tell the attacker what to do next."""
        self.mpi.Send(np.array([what, t, watched], np.int64), dest=self.partner, tag=_ORDER)

    def furnish(self, objective: Objective, comm: Communicator) -> None:
        """See :class:`Company`."""
        if isinstance(objective, AdversarialObjective):
            objective.attacked_by(self.beside.join(comm))

    def gathered(self, watch: Stopwatch) -> Trace | None:
        """See :class:`Company`."""
        self.order(_GATHER)
        return gathered_rounds(watch, self.whole, "rank")

    def serve(self) -> None:
        """See :class:`Company`."""
        _Attacker(self).serve()

    def let_go(self) -> None:
        """See :class:`Company`."""
        self.beside.let_go()
        self.order(_END)


class Beside:
    """A worker rank's attacker, as the gradient oracle knows it: see Attacker there."""

    comm: Communicator  # of the workers: its watch is told of waiting, its ledger of bytes

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self._coming: tuple[Any, Tensor] | None = None

    def join(self, comm: Communicator) -> Beside:
        """This, for the workers of ``comm``."""
        self.comm = comm
        return self

    @property
    def under_way(self) -> bool:
        """Whether examples have been asked for and not taken."""
        return self._coming is not None

    def ask(self, x: Tensor, inputs: Batches, t: int) -> None:
        """See Attacker. The models have left when it returns; the examples come into a receive that is posted."""
        mpi, partner = self.pairs.mpi, self.pairs.partner
        self._doing("send")
        self.pairs.order(_MAKE, t, self.comm.watch is not None)
        models = x.detach().cpu().contiguous()
        # waited for, though it is short: a message that is left to itself moves only when MPI is called again, which
        # a rank that computes does not do, and its attacker would wait as long
        sending = mpi.Isend(models.numpy(), dest=partner, tag=_MODELS)
        room = torch.empty(sum(part.numel() for part in inputs), dtype=x.dtype)
        self._coming = mpi.Irecv(room.numpy(), source=partner, tag=_EXAMPLES), room
        sending.Wait()
        self._doing("compute")
        self.comm.ledger.mpi_bytes += models.nbytes + room.nbytes

    def take(self, inputs: Batches) -> list[Tensor]:
        """See Attacker."""
        assert self._coming is not None
        (request, room), self._coming = self._coming, None
        self._doing("wait")
        request.Wait()
        self._doing("compute")
        parts = torch.split(room, [part.numel() for part in inputs])
        return [part.view_as(like).to(like.device) for part, like in zip(parts, inputs, strict=True)]

    def _doing(self, kind: str) -> None:
        if self.comm.watch is not None:
            self.comm.watch.switch(kind)

    def let_go(self) -> None:
        """Take what was asked for, if anything was, for nothing: its receive is posted."""
        if self._coming is not None:
            self._coming[0].Wait()


class _Attacker:
    """A rank that makes examples for its partner's workers, until it is told to end."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs, run = pairs, pairs.run
        h = run.workers // pairs.hosting
        rows = range(pairs.partner * h, (pairs.partner + 1) * h)
        self.objective: AdversarialObjective = run.problem.build(place_of(run, rows, pairs.here.device))
        self.x = self.objective.start().cpu().expand(h, -1).clone()
        self.watch = Stopwatch(pairs.whole.rank, pairs.here.device)
        self._sending: tuple[Any, Tensor] | None = None
        self._offer = giving_way(pairs.mpi)

    def serve(self) -> None:
        """All orders of the partner, in turn, to the last."""
        order = np.zeros(3, np.int64)
        while True:
            request = self.pairs.mpi.Irecv(order, source=self.pairs.partner, tag=_ORDER)
            while not request.Test():
                self._offer()  # a receive would spin, and take a core from those who measure
            what, t, watched = order.tolist()
            if what == _MAKE:
                self._make(t, bool(watched))
            elif what == _GATHER:
                self._leave_spans()
            else:
                break
        if self._sending is not None:
            self._sending[0].Wait()

    def _leave_spans(self) -> None:
        resting(self.watch)  # whenever it does not attack
        gathered_rounds(self.watch, self.pairs.whole, "rank")

    def _make(self, t: int, watched: bool) -> None:
        mpi, partner = self.pairs.mpi, self.pairs.partner
        mpi.Recv(self.x.numpy(), source=partner, tag=_MODELS)
        if watched:
            self.watch.t = t
            self.watch.switch("attack")
        made = self.objective.examples(self.x.to(self.pairs.here.device), t)
        if watched:
            self.watch.switch(None)
        if self._sending is not None:
            self._sending[0].Wait()
        flat = torch.cat([part.reshape(-1) for part in made]).cpu()
        self._sending = mpi.Isend(flat.numpy(), dest=partner, tag=_EXAMPLES), flat
