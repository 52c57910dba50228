"""Ranks that act for the workers of another, while it computes gradients of what they have sent.

Ranks 0 .. r - 1 host the workers; each has k = ``problem.actor_ranks`` beside it, which have equal shares of every
worker's actors. Policies go one way, at each pull, and with each round's transitions the environments come back, so
that the workers' rank has at any moment what one process would have. An actor needs the policies of the pull before the
last: it is ahead of the learner by up to two pulls, and waits for nothing else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm import Communicator
from decentral.problems.models.conversion import converted
from decentral.problems.objective import Objective
from decentral.problems.reinforcement.acting import Acting
from decentral.problems.reinforcement.agent import Agent, Carried
from decentral.problems.reinforcement.collecting import Inline
from decentral.problems.reinforcement.objective import ReinforcementObjective
from decentral.runs.place import Here
from decentral.runs.rounds.company import Company, resting
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.rounds.timeline import Stopwatch, gathered_rounds, middle
from decentral.runs.sections.actors import hosting_ranks
from decentral.runtime.trace import Trace

_ORDER, _ROWS, _DONE, _LAST = 1, 2, 3, 4  # tags
_BEGIN, _PULL, _GATHER, _END = range(4)  # orders
_NAP_S = 5e-5  # who waits sleeps: a blocking receive would spin, and take a core from those who act


class Crew(Company):
    """The ranks of such a run. ``others``: of a rank of workers, the ranks that act for it."""

    def __init__(self, run: RoundsRun, here: Here) -> None:
        hosting = hosting_ranks(run.problem, run.workers, here.world.ranks)
        super().__init__(run, here, hosting)
        k, rank = run.problem.actor_ranks, self.whole.rank
        self.share = run.problem.actors // k
        self.others = [hosting + rank * k + j for j in range(k)] if self.workers else []
        self.partner, self.number = divmod(rank - hosting, k)
        self.beside: Beside | None = None
        self._orders: list[tuple[Any, NDArray[np.int64]]] = []

    def order(self, what: int, t: int = 0) -> None:
        """Tell all actors what to do next."""
        self._orders = [(request, kept) for request, kept in self._orders if not request.Test()]
        for rank in self.others:
            text = np.array([what, t], np.int64)
            self._orders.append((self.mpi.Isend(text, dest=rank, tag=_ORDER), text))

    def actors_of(self, j: int) -> slice:
        """The actors, of every worker, that the j-th rank beside it has."""
        return slice(j * self.share, (j + 1) * self.share)

    def furnish(self, objective: Objective, comm: Communicator) -> None:
        """See :class:`Company`."""
        if isinstance(objective, ReinforcementObjective):
            self.beside = objective.collecting = Beside(self, objective, comm)

    def gathered(self, watch: Stopwatch) -> Trace | None:
        """See :class:`Company`."""
        self.order(_GATHER)
        return gathered_rounds(watch, self.whole, "rank")

    def serve(self) -> None:
        """See :class:`Company`."""
        _Actor(self).serve()

    def let_go(self) -> None:
        """See :class:`Company`."""
        self.order(_END)
        if self.beside is not None:
            self.beside.drain()
        for request, _ in self._orders:
            request.Wait()

    def receive(self, room: Tensor, source: int, tag: int) -> Tensor:
        """A message of that length; waits for it, asleep."""
        arrived(self.mpi.Irecv(room.numpy(), source=source, tag=tag))
        return room


def arrived(request: Any) -> None:
    """Wait for a message, asleep."""
    while not request.Test():
        time.sleep(_NAP_S)


class Beside:
    """The actors of a rank of workers, as its objective knows them: see Collecting there."""

    def __init__(self, crew: Crew, objective: ReinforcementObjective, comm: Communicator) -> None:
        self.crew, self.comm = crew, comm
        self.h, self.row, self.width = comm.h, objective.acting.row, objective.acting.width
        self._begun, self._taken = False, 0
        self._sending: list[tuple[Any, Tensor]] = []

    def begin(self, t: int, acting: Tensor, pulled: Tensor, environments: Tensor) -> None:
        """See Collecting."""
        if self._begun:
            return
        self._begun = True
        self.crew.order(_BEGIN, t)
        for j, rank in enumerate(self.crew.others):
            mine = environments[:, self.crew.actors_of(j)].contiguous()
            for part in (acting, pulled, mine):
                self._send(part, rank)

    def pull(self, pulled: Tensor) -> None:
        """See Collecting."""
        self.crew.order(_PULL)
        for rank in self.crew.others:
            self._send(pulled.clone(), rank)

    def _send(self, part: Tensor, rank: int) -> None:
        self._sending = [(request, kept) for request, kept in self._sending if not request.Test()]
        self._sending.append((self.crew.mpi.Isend(part.numpy(), dest=rank, tag=_ROWS), part))
        self.comm.ledger.mpi_bytes += part.nbytes

    def collect(self, t: int, acting: Tensor, environments: Tensor) -> Iterator[Tensor]:
        """See Collecting."""
        del t
        if self.comm.watch is not None:
            self.comm.watch.switch("wait")
        found = []
        for j, rank in enumerate(self.crew.others):
            there = environments[:, self.crew.actors_of(j)]
            room = self.crew.receive(self._room(acting.dtype), rank, _DONE)
            self.comm.ledger.mpi_bytes += room.nbytes
            states = there.numel() * 8
            there.copy_(room[:states].view(torch.float64).view(there.shape))
            found.append(room[states:].view(acting.dtype).view(self.h, -1, self.width))
        self._taken += 1
        if self.comm.watch is not None:
            self.comm.watch.switch("compute")
        yield from torch.cat(found, dim=1)

    def _room(self, dtype: torch.dtype) -> Tensor:
        """For what an actor's rank has done in a round: its environments, then transitions, as bytes."""
        s = self.crew.run.problem
        each = s.envs * (8 * self.row + s.steps * self.width * dtype.itemsize)
        return torch.empty(self.h * self.crew.share * each, dtype=torch.uint8)

    def drain(self) -> None:
        """What is under way is taken, for nothing: who has sent it waits for that."""
        for rank in self.crew.others:
            last = self.crew.receive(torch.empty(1, dtype=torch.int64), rank, _LAST)
            dtype = torch.float64 if self.crew.run.train.dtype == "float64" else torch.float32
            for _ in range(int(last) - self._taken):
                self.crew.receive(self._room(dtype), rank, _DONE)
        for request, _ in self._sending:
            request.Wait()


class _Actor:
    """A rank that acts, round after round, until it is told to end."""

    def __init__(self, crew: Crew) -> None:
        self.crew, run = crew, crew.run
        h = run.workers // crew.hosting
        rows = range(crew.partner * h, (crew.partner + 1) * h)
        env, dtype = run.problem.environment(), getattr(torch, run.train.dtype)
        agent = cast(Agent, converted(Agent(run.problem, env), torch.device("cpu"), dtype))
        acting, carried = Acting(run.problem, env, run.seed, dtype), Carried(agent)
        self.collecting = Inline(acting, carried, rows, crew.actors_of(crew.number).start)
        self.acting = torch.empty(h, carried.layout.d, dtype=dtype)
        self.environments = torch.empty(h, crew.share, run.problem.envs, acting.row, dtype=torch.float64)
        self.inbox: deque[Tensor] = deque()
        self.first: int | None = None
        self.ended, self.sent = False, 0
        self.watch = Stopwatch(crew.whole.rank, torch.device("cpu"))
        self._sending: list[tuple[Any, Tensor]] = []
        self._next = np.zeros(2, np.int64)
        self._order = self._expect()

    def serve(self) -> None:
        """All rounds, from that of the first order."""
        run = self.crew.run
        while self.first is None and not self.ended:
            self._hear()
        first = self.first or 0
        watched = middle(run.train.rounds, first)
        for t in range(first, run.train.rounds):
            if t % run.problem.pull_every == 0 and not self.ended:
                self._pull()
            while not self.ended and self._is_told():
                self._hear()
            if self.ended:
                break
            self._act(t, t in watched)
        while not self.ended:
            self._hear()
        self.crew.mpi.Send(np.array([self.sent], np.int64), dest=self.crew.partner, tag=_LAST)
        for request, _ in self._sending:
            request.Wait()

    def _pull(self) -> None:
        """The policies of the pull before: those that came with the first order, then those of each order to pull."""
        while not self.inbox and not self.ended:
            self._hear()
        if self.inbox:
            self.acting = self.inbox.popleft()

    def _is_told(self) -> bool:
        there: bool = self._order.Test()
        return there

    def _expect(self) -> Any:
        return self.crew.mpi.Irecv(self._next, source=self.crew.partner, tag=_ORDER)

    def _hear(self) -> None:
        """The next order; waits for it."""
        arrived(self._order)
        what, t = self._next.tolist()
        if what != _END:
            self._order = self._expect()
        if what == _BEGIN:
            self.first = t
            self._rows(self.acting)
            self.inbox.append(self._rows(torch.empty_like(self.acting)))
            self._rows(self.environments)
        elif what == _PULL:
            self.inbox.append(self._rows(torch.empty_like(self.acting)))
        elif what == _GATHER:
            resting(self.watch)
            gathered_rounds(self.watch, self.crew.whole, "rank")
        else:
            self.ended = True

    def _rows(self, room: Tensor) -> Tensor:
        return self.crew.receive(room, self.crew.partner, _ROWS)

    def _act(self, t: int, watched: bool) -> None:
        if watched:
            self.watch.t = t
            self.watch.switch("act")
        new = [*self.collecting.collect(t, self.acting, self.environments)]  # environments move on
        done = torch.cat([part.view(-1).view(torch.uint8) for part in (self.environments, *new)])
        if watched:
            self.watch.switch(None)
        self._sending = [(request, kept) for request, kept in self._sending if not request.Test()]
        self._sending.append((self.crew.mpi.Isend(done.numpy(), dest=self.crew.partner, tag=_DONE), done))
        self.sent += 1
