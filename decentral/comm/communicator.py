"""The mixer of a world: rows of workers that live here, their way to the others, and what that is billed."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from decentral.comm.admission import refuse_mixing, refuse_models
from decentral.comm.ledger import Ledger
from decentral.comm.mixer import Mixer
from decentral.comm.plan import MixingPlan, plan_for, workers_a_rank
from decentral.comm.row_sum import sum_rows
from decentral.comm.schedule import Mixing, as_schedule
from decentral.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.departures import Departures
    from decentral.comm.faults.links import Faults
    from decentral.comm.layout import Layout
    from decentral.comm.links import Links, Sent
    from decentral.comm.mixer import Pending

_UNTOLD = (
    "the round matters here, and this communicator was not told it; hand the method comm.at(t), t = 0, 1, ..."
)


class Watch(Protocol):
    """A stopwatch, in rounds whose timeline is measured."""

    def switch(self, kind: str) -> None:
        """From here on this rank does ``kind``."""


class _Untold:
    """The round of a communicator that was not told it. Not of one that was: ``at`` sets an attribute of its own."""

    def __get__(self, comm: object, owner: type | None = None) -> int:
        raise UserError(_UNTOLD)


class Communicator(Mixer):
    """Workers ``rows`` of n, and their way to the others. Built by LocalComm or MPIComm.

    ``links``: what carries packets of a compressor instead of vectors. ``layout``: of a model's columns, for methods
    that look at layers. ``check``: whether W must be a mixing matrix, and one that the method needs, where its ``init``
    asks.
    """

    departures: Departures | None = None  # where ranks may end early
    t: int = _Untold()  # type: ignore[assignment]  # until at(t) has told it

    def __init__(
        self,
        mixing: Mixing,
        rank: int,
        ranks: int,
        *,
        links: Links | None = None,
        layout: Layout | None = None,
        check: bool = True,
    ) -> None:
        self.schedule, self.check = as_schedule(mixing, check), check
        self.n: int = self.schedule.n
        self.rank, self.ranks = rank, ranks
        self.h = workers_a_rank(self.n, ranks)
        self.rows = range(rank * self.h, (rank + 1) * self.h)
        self.ledger = Ledger(self.n, self.h)
        if links is not None and links.rows != self.rows:
            raise UserError(
                f"links are of the workers {links.rows}, and this communicator's are {self.rows}; give them these"
            )
        self.unready = self.schedule.period != 1  # it must be told the round before it mixes
        self.opening = True
        self.rider = False
        self.links: Links | None = links
        self.faults: Faults | None = None
        self.layout: Layout | None = layout or (links.layout if links else None)
        self.watch: Watch | None = None
        self._plans: dict[int, MixingPlan] = {}

    def at(self, t: int, opening: bool = True) -> Self:
        """This communicator in round t, with the mixing matrix of that round and the same ledger.

        The round loop hands a method its columns in blocks. In the deployment that is modelled they travel
        as one message, so only the ``opening`` block counts messages; bytes are counted for all.
        """
        if (
            opening == self.opening
            and t == self.__dict__.get("t")
            and self.links is None
            and self.faults is None
        ):
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(
            self.__dict__, t=t, unready=False, opening=opening
        )  # a quarter of the time of copy.copy
        if self.links is not None:
            bound.links = self.links.at(t)
        if self.faults is not None:
            bound.faults = self.faults.at(t)
        return bound

    @property
    def along(self) -> Self:
        """This communicator for a few numbers a worker, or an edge, that travel in the packets of a round's vectors.

        They are the same in every block of columns: their bytes are counted in the opening one, messages never; and
        no link compresses them.
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, rider=True, links=None)
        return bound

    @property
    def whole(self) -> bool:
        """Whether links look at whole vectors: they compress, or keep late messages."""
        return self.links is not None or self.faults is not None

    def doing(self, kind: str) -> None:
        """From here on this rank does ``kind`` ("update", "send" or "wait"): for the timeline, in watched rounds."""
        if self.watch is not None:
            self.watch.switch(kind)

    @property
    def plan(self) -> MixingPlan:
        """See :class:`Mixer`."""
        t = self.__dict__.get("t", 0)  # edges may be asked for before the first round
        period = self.schedule.period
        key = t % period if period else t
        plan = self._plans.get(key)
        if plan is None:  # threads that share a round may both find that; then the plans are equal
            plan = self._plan_of(self.schedule.matrix(t))
            if not period:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _plan_of(self, w: sparse.csr_array) -> MixingPlan:
        return plan_for(w, self.rows.start, self.rows.stop)

    def mix_sent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Mixer`."""
        if self.links is None:
            return super().mix_sent(x)
        if self.unready or x.shape[0] != self.h or x.dim() != 2:
            self._refuse_rows(x)
        self.doing("send")
        sent = self.links.encode(x)
        self.ledger.count_packets(self.plan.out_degree, sent.packet_bytes, self.opening)
        return sent.rows, self._mix_packets(self.plan, sent)

    def admit(self, method: Any, x: Tensor) -> None:
        """See :class:`Mixer`. Raises UserError; with ``check`` = False the mixing may be any, as where n = 1."""
        refuse_models(method, x, self.h, self._rule_of_rows())
        if self.layout is not None and self.check and self.layout.d != x.shape[1]:
            raise UserError(
                f"{type(method).__name__}.init got x with {x.shape[1]} columns, and the layout has {self.layout.d}; "
                "give both of the same model"
            )
        if self.check and self.n > 1:
            refuse_mixing(method, self.schedule, self._unchecked())

    def _meet(self, kind: str) -> None:
        """Before what needs all ranks: see that they come, and for the same ``kind`` of it."""

    def _rule_of_rows(self) -> str:
        hosted = f"{self.h} workers" if self.ranks == 1 else f"{self.h} of {self.n} workers on this rank"
        return f"this communicator has {hosted}, so it must be ({self.h}, d): a row a worker, flat"

    def _refuse_rows(self, x: Tensor) -> NoReturn:
        if x.dim() == 2 and x.shape[0] == self.h:
            raise UserError(_UNTOLD)
        raise UserError(f"x of shape {tuple(x.shape)} cannot be mixed; {self._rule_of_rows()}")

    def start(self, x: Tensor) -> Pending:
        """See :class:`Mixer`."""
        if self.unready or x.shape[0] != self.h or x.dim() != 2:
            self._refuse_rows(x)
        if self.links is not None:
            sent, mixed = self.mix_sent(x)
            return None, mixed.sub_(sent).add_(x), None
        self.bill_gossip(x)
        if self.faults is not None:
            return None, self.faults.mix(x, self.rider, self._apply), None
        return self.post(x)

    def post(self, x: Tensor) -> Pending:
        """:meth:`start` without an entry in the ledger, for who bills the message in the round that it belongs to.

        Links must not compress.
        """
        plan = self.plan
        return plan, x, None if plan.exact else self._start_mix(plan, x)

    def finish(self, pending: Pending, out: Tensor | None = None) -> Tensor:
        """See :class:`Mixer`."""
        plan, x, request = pending
        if plan is None:
            return x
        if plan.exact:
            whole: Tensor = self._mean(x).expand(x.shape).clone()
            return whole
        return self._finish_mix(plan, x, request, out)

    def exchange(self, y: Tensor) -> Tensor:
        """See :class:`Mixer`."""
        plan = self.plan
        if self.unready:
            raise UserError(_UNTOLD)
        if y.shape[0] != len(plan.out_edges):
            raise ValueError(
                f"exchange got {y.shape[0]} rows for {len(plan.out_edges)} edges; one row an edge"
            )
        self.bill_gossip(y)
        return self._carry(plan, y)

    def mean(self, x: Tensor) -> Tensor:
        """See :class:`Mixer`.

        On links that compress: the mean of C(x_i), by an all-gather of their packets.
        """
        if x.shape[0] != self.h or x.dim() != 2:
            self._meet("an exact mean")  # a rank that has failed has the first word
            self._refuse_rows(x)
        if self.links is not None:
            self.doing("send")
            sent = self.links.encode(x)
            self.ledger.count_packets(
                np.full(self.h, self.n - 1), sent.packet_bytes, self.opening, gathers=True
            )
            return sum_rows(self._gather_packets(sent)).div_(self.n)
        self.bill_all_reduce(x)
        return self._mean(x)

    def bill_gossip(self, x: Tensor) -> None:
        """Enter in the ledger that each hosted worker sends a row of x's width to each out-neighbour.

        What is lost on the way has been sent; to a worker that is absent nothing is.
        """
        if self.opening or not self.rider:
            counts = self.opening and not self.rider
            degree = self.plan.out_degree if self.faults is None else self.faults.round.out_degree
            self.ledger.count_gossip(degree, x.shape[1] * x.dtype.itemsize, counts)

    def bill_all_reduce(self, x: Tensor) -> None:
        """Enter in the ledger one all-reduce of a vector of x's width."""
        if self.opening or not self.rider:
            self.ledger.count_all_reduce(x.shape[1] * x.dtype.itemsize, self.opening and not self.rider)

    def observe_mean(self, x: Tensor) -> Tensor:
        """:meth:`mean` for measuring only: it is no traffic of the method, so it is not billed, nor are MPI's bytes."""
        before = self.ledger.mpi_bytes
        mean = self._mean(x)
        self.ledger.mpi_bytes = before
        return mean

    def observe_neighbours(self, x: Tensor) -> Tensor:
        """The sender's row of x (h, b) for each of ``edges_in``, (e', b), for measuring only: not billed."""
        before = self.ledger.mpi_bytes
        rows = self._carry(self.plan, self.departing(x))
        self.ledger.mpi_bytes = before
        return rows

    def share_root(self, x: Tensor) -> None:
        """Overwrite x, contiguous, with rank 0's of the same shape. Not billed: it is no traffic of a method."""
        raise NotImplementedError(f"{type(self).__name__} has no rank 0")

    @abstractmethod
    def _unchecked(self) -> Communicator:
        """All workers in this process, with the same mixing, for trials."""

    @abstractmethod
    def observe(self, values: NDArray[Any]) -> NDArray[Any]:
        """One row for each hosted worker, (h, ...), to those of all n workers, (n, ...), on every rank."""

    @abstractmethod
    def _start_mix(self, plan: MixingPlan, x: Tensor) -> Any: ...

    @abstractmethod
    def _finish_mix(self, plan: MixingPlan, x: Tensor, request: Any, out: Tensor | None) -> Tensor: ...

    @abstractmethod
    def _carry(self, plan: MixingPlan, y: Tensor) -> Tensor: ...

    def _apply(self, plan: MixingPlan, x: Tensor) -> Tensor:
        return self._finish_mix(plan, x, self._start_mix(plan, x), None)

    def _mix_packets(self, plan: MixingPlan, sent: Sent) -> Tensor:
        """The hosted rows of W q from the packets of q."""
        raise NotImplementedError(f"links of {type(self).__name__} do not compress")

    def _gather_packets(self, sent: Sent) -> Tensor:
        """The rows (n, d) that the packets of all workers decode to."""
        raise NotImplementedError(f"links of {type(self).__name__} do not compress")

    @abstractmethod
    def _mean(self, x: Tensor) -> Tensor: ...
