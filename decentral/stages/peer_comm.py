"""A stage's way to its peers: a method's communicator whose rows travel as requests of the stage's program.

A method calls ``comm.mix(x)`` and wants W x at once, but only a program may wait. So the method's step runs as a
coroutine on a stack of its own (greenlet): in the middle of ``mix`` it hands over what should be sent and received, and
goes on when the program has it. The method is the text that rounds of workers run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from greenlet import getcurrent, greenlet

from decentral.comm.communicator import Communicator
from decentral.comm.row_sum import sum_rows
from decentral.comm.schedule import Mixing, as_schedule
from decentral.runtime.requests import Channel, Compute, Program, Recv, Request, Send

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from decentral.comm.plan import MixingPlan

GOSSIP, ALL_REDUCE = "gossip", "all-reduce"


class PeerComm(Communicator):
    """Worker ``worker`` of n, and its way to the others, from inside a stage's program.

    ``number_of(i)``: the number of the same stage of worker i. Rows are added in the order of every world: own first,
    then neighbours ascending; a mean sums workers ascending. An exact mean goes as a reduce-scatter and an all-gather:
    2 (n - 1) / n of the vector a worker, in 2 (n - 1) messages.
    """

    def __init__(self, mixing: Mixing, worker: int, number_of: Callable[[int], int]) -> None:
        schedule = as_schedule(mixing)
        super().__init__(schedule, worker, schedule.n, check=False)
        self.worker, self.number_of = worker, number_of

    def _unchecked(self) -> NoReturn:
        raise NotImplementedError("a stage's communicator is checked before it is made")

    def observe(self, values: NDArray[Any]) -> NoReturn:
        """Not here: what is measured is read off the stages."""
        raise NotImplementedError("a stage's communicator does not measure; read the stages' own states")

    def _plan_of(self, w: sparse.csr_array) -> MixingPlan:
        # rows go to all neighbours, as they are billed, even where W x is the exact mean
        return dataclasses.replace(super()._plan_of(w), exact=False)

    def _start_mix(self, plan: MixingPlan, x: Tensor) -> list[Request]:
        return [Send(self._to(int(j), GOSSIP), x) for _, j in plan.out_edges]

    def _finish_mix(self, plan: MixingPlan, x: Tensor, request: list[Request], out: Tensor | None) -> Tensor:
        rows = ask([*request, *(Recv(self._from(int(j), GOSSIP)) for j in plan.halo)])
        return plan.combine(x, torch.cat(rows) if rows else None, out)

    def _carry(self, plan: MixingPlan, y: Tensor) -> Tensor:
        sends = [
            Send(self._to(int(j), GOSSIP), row[None]) for (_, j), row in zip(plan.out_edges, y, strict=True)
        ]
        rows = ask([*sends, *(Recv(self._from(int(j), GOSSIP)) for j, _ in plan.in_edges)])
        return torch.cat(rows) if rows else y

    def _mean(self, x: Tensor) -> Tensor:
        others = [j for j in range(self.n) if j != self.worker]
        parts = list(x.tensor_split(self.n, dim=1))
        mine = self._swap(others, [parts[j] for j in others])
        mine.insert(self.worker, parts[self.worker])
        share = sum_rows(torch.cat(mine)).div_(self.n)
        whole = self._swap(others, [share] * len(others))
        whole.insert(self.worker, share)
        return torch.cat(whole, dim=1)

    def _swap(self, others: Sequence[int], parts: Sequence[Tensor]) -> list[Tensor]:
        """Send a part to each of the others; theirs."""
        sends = [Send(self._to(j, ALL_REDUCE), part) for j, part in zip(others, parts, strict=True)]
        return ask([*sends, *(Recv(self._from(j, ALL_REDUCE)) for j in others)])

    def _to(self, peer: int, name: str) -> Channel:
        return Channel(self.number_of(self.worker), self.number_of(peer), name)

    def _from(self, peer: int, name: str) -> Channel:
        return Channel(self.number_of(peer), self.number_of(self.worker), name)


def ask(requests: Sequence[Request]) -> list[Any]:
    """In the middle of :func:`interruptible` work: what the driver answers to the receives, in their order."""
    asking = getcurrent().parent
    answers: list[Any] = asking.switch(requests)
    return answers


def interruptible(kind: str, work: Callable[..., Any], *args: Any, tag: Any = None) -> Program:
    """Requests that do ``work(*args)``: a Compute up to each :func:`ask` in it, and in between what is asked for."""
    running = greenlet(work)
    asked = yield Compute(kind, running.switch, *args, tag=tag)
    while not running.dead:
        answers = []
        for request in asked:
            answer = yield request
            if isinstance(request, Recv):
                answers.append(answer)
        asked = yield Compute(kind, running.switch, answers, tag=tag)
