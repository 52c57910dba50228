"""What a method sees of the other workers, whichever world they live in.

Everything a method touches has shape (h, d): one row for each hosted worker. ``mix`` is
(W x)_i = sum_j W_ij x_j; ``mean`` is the exact mean over all n workers; ``exchange`` carries one row
along each directed edge. A method cannot tell how many workers it is, nor where they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm.plan import MixingPlan

if TYPE_CHECKING:
    from decentral.comm.layout import Layout

Pending = tuple[MixingPlan | None, Tensor, Any]
"""Of a mixing under way: its plan, x, and what the world waits for; or None, W x, None."""


class Mixer(ABC):
    """Workers ``rows``, h of n, in round ``t``. A world owes ``start``, ``finish`` and ``mean``; ``mix`` follows.

    ``ranks``: processes that the workers are on. ``layout``: which entries of a vector are which layer, where known.
    """

    n: int
    h: int
    rows: range
    t: int
    ranks: int
    layout: Layout | None

    def admit(self, method: Any, x: Tensor) -> None:  # noqa: B027 - a stand-in takes any
        """Asked first by a method's ``init``: whether x is the hosted workers' models, and the mixing what it needs."""

    @abstractmethod
    def start(self, x: Tensor) -> Pending:
        """Send the rows of x (h, d); x must not change until :meth:`finish`."""

    @abstractmethod
    def finish(self, pending: Pending, out: Tensor | None = None) -> Tensor:
        """W x for the x that :meth:`start` was given: in ``out``, or a new (h, d)."""

    @abstractmethod
    def mean(self, x: Tensor) -> Tensor:
        """The exact mean over all n workers, workers summed ascending: (h, d) to (1, d). An all-reduce."""

    def mix(self, x: Tensor) -> Tensor:
        """W x: x (h, d) to a new (h, d). Each worker sends its row to each out-neighbour.

        On links that compress: x + (W - I) C(x), which keeps the mean where W does. On links with faults: what arrives
        of it (:mod:`decentral.comm.faults.links`).
        """
        return self.finish(self.start(x))

    def mix_(self, x: Tensor) -> Tensor:
        """W x, giving up x: the result lies in its memory where no hosted worker needs another's row."""
        pending = self.start(x)
        plan = pending[0]
        return self.finish(pending, x if plan is not None and plan.apart else None)

    def mix_sent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(q, W q), where q (h, d) is what links make of x: C(x) where they compress, else x itself."""
        return x, self.mix(x)

    def at(self, t: int, opening: bool = True) -> Mixer:
        """This mixer in round t; ``opening``: for the first block of columns of the round."""
        raise NotImplementedError(f"{type(self).__name__} has no rounds")

    @property
    def along(self) -> Mixer:
        """This mixer for a few numbers a worker, or an edge, that travel in the packets of a round's vectors."""
        raise NotImplementedError(f"{type(self).__name__} carries vectors alone")

    @property
    def whole(self) -> bool:
        """Whether whole vectors must be sent: a round is then one block of columns."""
        return False

    @property
    def plan(self) -> MixingPlan:
        """The mixing plan of this round."""
        raise NotImplementedError(f"{type(self).__name__} has no edges")

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

    def exchange(self, y: Tensor) -> Tensor:
        """Carry y (e, d), rows as :attr:`edges_out`, to their receivers: (e', d), rows as :attr:`edges_in`."""
        raise NotImplementedError(f"{type(self).__name__} has no edges")

    def departing(self, x: Tensor) -> Tensor:
        """Each hosted worker's row of x (h, d) once for each edge that leaves it: (e, d), rows as :attr:`edges_out`."""
        return x[self.plan.senders]

    def arrived(self, y: Tensor) -> Tensor:
        """Sum of the rows of y (e', d) that reached each hosted worker, by ascending sender: (h, d)."""
        total = y.new_zeros((self.h, y.shape[1]))
        for rows, edges in self.plan.arrivals:
            total[rows] += y[edges]
        return total

    def bill_gossip(self, x: Tensor) -> None:  # noqa: B027 - a stand-in has no ledger
        """Enter in the ledger that each hosted worker sends a row of x's width to each out-neighbour."""

    def bill_all_reduce(self, x: Tensor) -> None:  # noqa: B027
        """Enter in the ledger one all-reduce of a vector of x's width."""
