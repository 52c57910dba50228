"""How the hosted rows of W x are summed: own row first, then neighbours ascending, in every world.

A row's sum runs over *terms* (source row, weight). In float32 on a CPU all rows are one call of ``embedding_bag``,
which multiplies and adds a row's terms in their order in one pass over memory. Otherwise consecutive rows whose terms
sit at equal offsets with equal weights form a *run* and are summed as slices: three slices for a ring of any size.
Either way the arithmetic of a row is its own, so every split of the workers over ranks gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn.functional import embedding_bag

from decentral.comm.order import RowOrder
from decentral.errors import UserError

_SMALL = 4  # workers up to which W = 11'/n is a graph like others
_FEW = 4  # hosted rows for each row of the halo


@dataclass(frozen=True)
class Run:
    """Rows ``start .. start + size`` of the result; a term is (first source row, weight).

    Source rows count the hosted rows 0 .. h - 1, then those of the halo.
    """

    start: int
    size: int
    terms: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class MixingPlan:
    """What one block of workers ``lo .. hi`` needs to know of a mixing matrix W (n, n).

    ``halo``: global ids, ascending, of the rows that it needs and does not host.
    ``out_degree``: (h,) how many other workers need each hosted row.
    ``exact``: W is 11'/n and n is not small, so that mixing goes as the exact mean, n and not n^2 rows.
    """

    n: int
    lo: int
    hi: int
    halo: NDArray[np.int64]
    runs: tuple[Run, ...]
    out_degree: NDArray[np.int64]
    out_edges: NDArray[np.int64]
    in_edges: NDArray[np.int64]
    in_weights: NDArray[np.float64]
    edges_before: int
    exact: bool

    @cached_property
    def apart(self) -> bool:
        """Whether no row of the result needs another hosted row, so that x may be overwritten."""
        return all(
            (not k and row == run.start) or row >= self.hi - self.lo
            for run in self.runs
            for k, (row, _) in enumerate(run.terms)
        )

    def combine(self, x: Tensor, halo: Tensor | None, out: Tensor | None = None) -> Tensor:
        """Rows ``lo .. hi`` of W x from the hosted rows x (h, b) and the halo's rows (len(halo), b).

        They are written to ``out``, which may be x if the rows are :attr:`apart`, or are new.
        """
        h = x.shape[0]
        # a halo has to be joined to x for it; with few hosted rows that copy costs more than it saves
        if (
            out is None
            and x.dtype is torch.float32
            and x.device.type == "cpu"
            and (halo is None or h > _FEW * len(halo))
        ):
            rows = x if halo is None else torch.cat([x, halo])
            bags = self.bags32
            return embedding_bag(
                bags.rows,
                rows,
                bags.offsets,
                mode="sum",
                per_sample_weights=bags.weights,
                include_last_offset=True,
            )
        if out is None:
            out = torch.empty_like(x)
        for run in self.runs:
            size = run.size
            target = _rows(out, run.start, size)
            if not run.terms:
                target.zero_()
            first = True
            for row, weight in run.terms:
                source = _rows(x, row, size) if row < h or halo is None else _rows(halo, row - h, size)
                if first:
                    torch.mul(source, weight, out=target)
                    first = False
                else:
                    target.add_(source, alpha=weight)
        return out

    @cached_property
    def senders(self) -> list[int]:
        """The hosted row that each of ``out_edges`` leaves."""
        return (self.out_edges[:, 0] - self.lo).tolist()  # type: ignore[no-any-return]

    @cached_property
    def arrivals(self) -> list[tuple[list[int], list[int]]]:
        """For k = 0, 1, ...: (hosted rows with more than k in-edges, the k-th in-edge of each)."""
        degree = np.bincount(self.in_edges[:, 1] - self.lo, minlength=self.hi - self.lo)
        first = np.cumsum(degree) - degree
        found = []
        for k in range(int(degree.max(initial=0))):
            rows = np.flatnonzero(degree > k)
            found.append((rows.tolist(), (first[rows] + k).tolist()))
        return found

    @cached_property
    def bags(self) -> Bags:
        """The terms of all rows; in one process they are hosted rows."""
        terms = [[(row + k, v) for row, v in run.terms] for run in self.runs for k in range(run.size)]
        return Bags(
            rows=torch.tensor([row for bag in terms for row, _ in bag], dtype=torch.int32),
            offsets=torch.tensor(np.cumsum([0, *map(len, terms)]), dtype=torch.int32),
            weights=torch.tensor([weight for bag in terms for _, weight in bag], dtype=torch.float64),
        )

    @cached_property
    def bags32(self) -> Bags:
        """The same, as ``embedding_bag`` takes it."""
        return self.bags._replace(weights=self.bags.weights.float())

    @cached_property
    def order(self) -> RowOrder:
        """An order to make the rows in, where all are hosted."""
        return RowOrder.of(self.bags.offsets.numpy(), self.bags.rows.numpy())


class Bags(NamedTuple):
    """The terms of all rows, one bag a row."""

    rows: Tensor
    offsets: Tensor
    weights: Tensor


def _rows(x: Tensor, start: int, size: int) -> Tensor:
    return x if size == x.shape[0] else x[start : start + size]


def workers_a_rank(workers: int, ranks: int) -> int:
    """How many workers each rank hosts. Raises UserError where the ranks do not divide the workers."""
    if workers % ranks:
        *fewer, most = [str(r) for r in range(1, workers + 1) if workers % r == 0]
        raise UserError(
            f"topology has {workers} workers but MPI has {ranks} ranks, which do not divide them; "
            f"launch {', '.join(fewer)}{' or ' * bool(fewer)}{most} ranks"
        )
    return workers // ranks


def plan_for(w: sparse.csr_array, lo: int, hi: int) -> MixingPlan:
    """The plan of workers ``lo .. hi`` under the mixing matrix ``w`` (row i receives)."""
    n = w.shape[0]
    rows = w[lo:hi].tocsr()
    rows.eliminate_zeros()
    rows.sort_indices()
    coo = w.tocoo()
    apart = (coo.row != coo.col) & (coo.data != 0)
    receivers, senders, weights = coo.row[apart], coo.col[apart], coo.data[apart]
    leaving = (senders >= lo) & (senders < hi)
    entering = (receivers >= lo) & (receivers < hi)
    out_edges = _ordered(senders[leaving], receivers[leaving])
    order = np.lexsort((senders[entering], receivers[entering]))
    in_edges = np.stack([senders[entering], receivers[entering]], axis=1)[order]
    sources = np.unique(in_edges[:, 0])
    halo = sources[(sources < lo) | (sources >= hi)]
    return MixingPlan(
        n=n,
        lo=lo,
        hi=hi,
        halo=halo,
        runs=_runs(rows, lo, hi, halo),
        out_degree=np.bincount(out_edges[:, 0] - lo, minlength=hi - lo).astype(np.int64),
        out_edges=out_edges,
        in_edges=in_edges,
        in_weights=weights[entering][order],
        edges_before=int((receivers < lo).sum()),
        exact=bool(n > _SMALL and w.nnz == n * n and np.all(w.data == 1.0 / n)),
    )


def _ordered(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.lexsort((second, first))
    return np.stack([first, second], axis=1)[order].astype(np.int64)


def _runs(rows: sparse.csr_array, lo: int, hi: int, halo: NDArray[np.int64]) -> tuple[Run, ...]:
    position = {int(row): k for k, row in enumerate(halo)}
    runs: list[Run] = []
    for i in range(hi - lo):
        span = slice(rows.indptr[i], rows.indptr[i + 1])
        terms = []
        for j, weight in zip(rows.indices[span].tolist(), rows.data[span].tolist(), strict=True):
            terms.append((j - lo if lo <= j < hi else hi - lo + position[j], weight))
            if j == lo + i:
                terms.insert(0, terms.pop())
        last = runs[-1] if runs else None
        if last and _continues(last, terms, hi - lo):
            runs[-1] = Run(last.start, last.size + 1, last.terms)
        else:
            runs.append(Run(i, 1, tuple(terms)))
    return tuple(runs)


def _continues(run: Run, terms: list[tuple[int, float]], h: int) -> bool:
    """Whether the next row is the run's pattern one row further, and stays on its side of the halo."""
    ahead = tuple((row - run.size, weight) for row, weight in terms)
    return ahead == run.terms and all(
        (row < h) == (first < h) for (row, _), (first, _) in zip(terms, run.terms, strict=True)
    )
