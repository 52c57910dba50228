"""What a method sees of the other workers, whichever world they live in.

Everything a method touches has shape (h, d): one row for each hosted worker. ``mix`` is
(W x)_i = sum_j W_ij x_j; ``mean`` is the exact mean over all n workers; ``exchange`` carries one row
along each directed edge. A method cannot tell how many workers it is, nor where they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch.nn.functional import embedding_bag

import topologies
from decentral.comm.launch import workers_a_rank
from decentral.comm.ledger import Ledger
from decentral.comm.plan import MixingPlan, plan_for

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.faults.links import Faults
    from decentral.comm.layout import Layout
    from decentral.comm.links import Links, Sent

_FEW_ROWS = 16  # up to which adding one after the other costs no more


class Communicator(ABC):
    """Workers ``rows`` of n, and their way to the others. Built by LocalComm or MPIComm."""

    def __init__(self, mixing: Any, rank: int, ranks: int) -> None:
        self.schedule = as_schedule(mixing)
        self.n: int = self.schedule.n
        self.rank, self.ranks = rank, ranks
        self.h = workers_a_rank(self.n, ranks)
        self.rows = range(rank * self.h, (rank + 1) * self.h)
        self.ledger = Ledger(self.n, self.h)
        self.t = 0
        self.opening = True
        self.rider = False
        self.links: Links | None = None
        self.faults: Faults | None = None
        self.layout: Layout | None = None  # of a model's columns, for methods that look at layers
        self.watch: Any = None  # a Stopwatch, in rounds whose timeline is measured
        self._plans: dict[int, MixingPlan] = {}

    def at(self, t: int, opening: bool = True) -> Self:
        """This communicator in round t, with the mixing matrix of that round and the same ledger.

        The round loop hands a method its columns in blocks. In the deployment that is modelled they travel
        as one message, so only the ``opening`` block counts messages; bytes are counted for all.
        """
        if opening == self.opening and t == self.t and self.links is None and self.faults is None:
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, t=t, opening=opening)  # a quarter of the time of copy.copy
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

    def doing(self, kind: str) -> None:
        """From here on this rank does ``kind`` ("update", "send" or "wait"): for the timeline, in watched rounds."""
        if self.watch is not None:
            self.watch.switch(kind)

    @property
    def plan(self) -> MixingPlan:
        """The mixing plan of this round."""
        period = self.schedule.period
        key = self.t % period if period else self.t
        if key not in self._plans:
            if not period:
                self._plans.clear()
            self._plans[key] = self._plan_of(self.schedule.matrix(self.t))
        return self._plans[key]

    def _plan_of(self, w: sparse.csr_array) -> MixingPlan:
        return plan_for(w, self.rows.start, self.rows.stop)

    @property
    def edges_out(self) -> NDArray[np.int64]:
        """(e, 2) directed edges (from, to) leaving the hosted workers, by sender, then receiver."""
        return self.plan.out_edges

    @property
    def edges_in(self) -> NDArray[np.int64]:
        """(e', 2) directed edges (from, to) entering the hosted workers, by receiver, then sender.

        On an undirected graph row k is the reverse of row k of :attr:`edges_out`.
        """
        return self.plan.in_edges

    @property
    def edges_before(self) -> int:
        """Edges that enter workers before the hosted ones, in the order of :attr:`edges_in` over all workers."""
        return self.plan.edges_before

    @property
    def weights_in(self) -> NDArray[np.float64]:
        """(e',) weights W_ij of the edges :attr:`edges_in`, j -> i."""
        return self.plan.in_weights

    def mix(self, x: Tensor) -> Tensor:
        """W x: x (h, d) to a new (h, d). Each worker sends its row to each out-neighbour.

        On links that compress: x + (W - I) C(x), which keeps the mean where W does. On links with faults: what arrives
        of it (:mod:`decentral.comm.faults.links`).
        """
        return self.finish(self.start(x))

    def mix_sent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(q, W q), where q (h, d) is what links make of x: C(x) where they compress, else x itself."""
        if self.links is None:
            return x, self.mix(x)
        self.doing("send")
        sent = self.links.encode(x)
        self.ledger.count_packets(self.plan.out_degree, sent.packet_bytes, self.opening)
        return sent.rows, self._mix_packets(self.plan, sent)

    def mix_(self, x: Tensor) -> Tensor:
        """W x, giving up x: the result lies in its memory where no hosted worker needs another's row."""
        if self.links is not None or self.faults is not None:
            return self.mix(x)
        pending = self.start(x)
        return self.finish(pending, x if pending[0].apart else None)

    def start(self, x: Tensor) -> Any:
        """Send the rows of x (h, d); x must not change until :meth:`finish`."""
        if self.links is not None:
            sent, mixed = self.mix_sent(x)
            return None, mixed.sub_(sent).add_(x), None
        self.bill_gossip(x)
        if self.faults is not None:
            return None, self.faults.mix(x, self.rider, self._apply), None
        return self.post(x)

    def post(self, x: Tensor) -> Any:
        """:meth:`start` without an entry in the ledger, for who bills the message in the round that it belongs to.

        Links must not compress.
        """
        plan = self.plan
        return plan, x, None if plan.exact else self._start_mix(plan, x)

    def finish(self, pending: Any, out: Tensor | None = None) -> Tensor:
        """W x for the x that :meth:`start` was given: in ``out``, or a new (h, d)."""
        plan, x, request = pending
        if plan is None:
            return x  # type: ignore[no-any-return]
        if plan.exact:
            whole: Tensor = self._mean(x).expand(x.shape).clone()
            return whole
        return self._finish_mix(plan, x, request, out)

    def exchange(self, y: Tensor) -> Tensor:
        """Carry y (e, d), rows as :attr:`edges_out`, to their receivers: (e', d), rows as :attr:`edges_in`."""
        plan = self.plan
        if y.shape[0] != len(plan.out_edges):
            raise ValueError(
                f"exchange got {y.shape[0]} rows for {len(plan.out_edges)} edges; one row an edge"
            )
        self.bill_gossip(y)
        return self._carry(plan, y)

    def departing(self, x: Tensor) -> Tensor:
        """Each hosted worker's row of x (h, d) once for each edge that leaves it: (e, d), rows as :attr:`edges_out`."""
        return x[self.plan.senders]

    def arrived(self, y: Tensor) -> Tensor:
        """Sum of the rows of y (e', d) that reached each hosted worker, by ascending sender: (h, d)."""
        total = y.new_zeros((self.h, y.shape[1]))
        for rows, edges in self.plan.arrivals:
            total[rows] += y[edges]
        return total

    def mean(self, x: Tensor) -> Tensor:
        """The exact mean over all n workers, workers summed ascending: (h, d) to (1, d). An all-reduce.

        On links that compress: the mean of C(x_i), by an all-gather of their packets.
        """
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
        """:meth:`mean` for measuring only: it is no traffic of the method, so it is not billed."""
        return self._mean(x)

    def share_root(self, x: Tensor) -> None:
        """Overwrite x, contiguous, with rank 0's of the same shape. Not billed: it is no traffic of a method."""
        raise NotImplementedError(f"{type(self).__name__} has no rank 0")

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


def as_schedule(mixing: Any) -> topologies.Schedule:
    """A Schedule as it is; any scipy or numpy matrix as the schedule that never changes. Checked."""
    if isinstance(mixing, topologies.Schedule):
        return mixing
    w = sparse.csr_array(mixing, dtype=np.float64)
    topologies.check_mixing_matrix(w, sums="either")
    return topologies.constant(w)


def sum_rows(x: Tensor) -> Tensor:
    """Sum of the rows of x (n, b), ascending, one after the other: (1, b)."""
    if x.dtype is torch.float32 and x.device.type == "cpu" and len(x) > _FEW_ROWS:
        # the same sums in the same order, without a call a row
        rows, ends = torch.arange(len(x)), torch.tensor([0, len(x)])
        return embedding_bag(rows, x, ends, mode="sum", include_last_offset=True)
    first, *others = x.unbind(0)
    total = first.clone()
    for row in others:
        total.add_(row)
    return total.unsqueeze(0)
