"""What a method sees of the other workers, whichever world they live in.

Everything a method touches has shape (h, d): one row for each hosted worker. ``mix`` is
(W x)_i = sum_j W_ij x_j; ``mean`` is the exact mean over all n workers; ``exchange`` carries one row
along each directed edge. A method cannot tell how many workers it is, nor where they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import topologies
from decentral.comm.launch import workers_a_rank
from decentral.comm.ledger import Ledger
from decentral.comm.plan import MixingPlan, plan_for

if TYPE_CHECKING:
    from torch import Tensor


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
        self._plans: dict[int, MixingPlan] = {}

    def at(self, t: int, opening: bool = True) -> Self:
        """This communicator in round t, with the mixing matrix of that round and the same ledger.

        The round loop hands a method its columns in blocks. In the deployment that is modelled they travel
        as one message, so only the ``opening`` block counts messages; bytes are counted for all.
        """
        if opening == self.opening and t == self.t:
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, t=t, opening=opening)  # a quarter of the time of copy.copy
        return bound

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
        """(e', 2) directed edges (from, to) entering the hosted workers, by receiver, then sender."""
        return self.plan.in_edges

    def mix(self, x: Tensor) -> Tensor:
        """W x: x (h, d) to a new (h, d). Each worker sends its row to each out-neighbour."""
        return self.finish(self.start(x))

    def mix_(self, x: Tensor) -> Tensor:
        """W x, giving up x: the result lies in its memory where no hosted worker needs another's row."""
        pending = self.start(x)
        return self.finish(pending, x if pending[0].apart else None)

    def start(self, x: Tensor) -> Any:
        """Send the rows of x (h, d); x must not change until :meth:`finish`."""
        self.bill_gossip(x)
        plan = self.plan
        return plan, x, None if plan.exact else self._start_mix(plan, x)

    def finish(self, pending: Any, out: Tensor | None = None) -> Tensor:
        """W x for the x that :meth:`start` was given: in ``out``, or a new (h, d)."""
        plan, x, request = pending
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

    def mean(self, x: Tensor) -> Tensor:
        """The exact mean over all n workers, workers summed ascending: (h, d) to (1, d). An all-reduce."""
        self.bill_all_reduce(x)
        return self._mean(x)

    def bill_gossip(self, x: Tensor) -> None:
        """Enter in the ledger that each hosted worker sends a row of x's width to each out-neighbour."""
        self.ledger.count_gossip(self.plan.out_degree, x.shape[1] * x.dtype.itemsize, self.opening)

    def bill_all_reduce(self, x: Tensor) -> None:
        """Enter in the ledger one all-reduce of a vector of x's width."""
        self.ledger.count_all_reduce(x.shape[1] * x.dtype.itemsize, self.opening)

    def observe_mean(self, x: Tensor) -> Tensor:
        """:meth:`mean` for measuring only: it is no traffic of the method, so it is not billed."""
        return self._mean(x)

    @abstractmethod
    def observe(self, values: NDArray[Any]) -> NDArray[Any]:
        """One row for each hosted worker, (h, ...), to those of all n workers, (n, ...), on every rank."""

    @abstractmethod
    def _start_mix(self, plan: MixingPlan, x: Tensor) -> Any: ...

    @abstractmethod
    def _finish_mix(self, plan: MixingPlan, x: Tensor, request: Any, out: Tensor | None) -> Tensor: ...

    @abstractmethod
    def _carry(self, plan: MixingPlan, y: Tensor) -> Tensor: ...

    @abstractmethod
    def _mean(self, x: Tensor) -> Tensor: ...


def as_schedule(mixing: Any) -> topologies.Schedule:
    """A Schedule as it is; any scipy or numpy matrix as the schedule that never changes. Checked."""
    if isinstance(mixing, topologies.Schedule):
        return mixing
    w = sparse.csr_array(mixing, dtype=np.float64)
    topologies.check_mixing_matrix(w)
    return topologies.constant(w)


def sum_rows(x: Tensor) -> Tensor:
    """Sum of the rows of x (n, b), ascending, one after the other: (1, b)."""
    first, *others = x.unbind(0)
    total = first.clone()
    for row in others:
        total.add_(row)
    return total.unsqueeze(0)
