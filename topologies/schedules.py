"""A schedule: a mixing matrix for every round, so that a worker may talk to another neighbour each time.

One round of a schedule may leave workers apart (its own gap is often 0); what counts is the product of the
matrices over a period.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from topologies.checks import (
    as_csr,
    check_mixing_matrix,
    is_column_stochastic,
    is_row_stochastic,
    is_symmetric,
)
from topologies.deferred import Deferred
from topologies.spectra import circulant_row
from topologies.wording import shown

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Deferred("networkx")

SEEN = 16
"""Rounds that are looked at where they never repeat."""

LARGEST_PRODUCT = 4096
"""Workers up to which the product over a period is formed; it is dense."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """Mixing matrix of each round t = 0, 1, ...; ``period`` is None where they never repeat.

    ``rule`` maps t to the matrix and must depend on t alone. With a period it is asked for t < period only.
    """

    n: int
    period: int | None
    rule: Callable[[int], sparse.csr_array] = field(repr=False)

    def matrix(self, t: int) -> sparse.csr_array:
        """CSR matrix of round t; row i receives."""
        if t < 0:
            raise ValueError(f"rounds are counted from 0 (t = {t}); use t = 0 or more")
        return self.rule(t if self.period is None else t % self.period)

    @property
    def rounds(self) -> range:
        """Those of one period; the first `SEEN` where they never repeat."""
        return range(self.period or SEEN)


def cyclic(matrices: Iterable[Any]) -> Schedule:
    """The given matrices in turn, over and over; together they must connect all workers."""
    turns = tuple(as_csr(matrix) for matrix in matrices)
    if not turns:
        raise ValueError("a schedule needs at least one mixing matrix (0 given); give one a round")
    sizes = {w.shape[0] for w in turns}
    if len(sizes) > 1:
        raise ValueError(f"the matrices of a schedule have {sorted(sizes)} workers; give all the same number")
    sums: Any = (
        "columns" if not all(map(is_row_stochastic, turns)) and is_column_stochastic(turns[0]) else "rows"
    )
    for t, w in enumerate(turns):
        try:
            check_mixing_matrix(w, connected=False, sums=sums)
        except ValueError as error:
            raise ValueError(f"round {t} of the schedule: {error}") from None
    check_mixing_matrix(sum(abs(w) / abs(w).sum(axis=1)[:, None] for w in turns) / len(turns))
    return Schedule(n=sizes.pop(), period=len(turns), rule=turns.__getitem__)


def constant(matrix: Any) -> Schedule:
    """The same matrix every round: a schedule of period 1."""
    return cyclic([matrix])


def one_peer_exponential(n: int) -> Schedule:
    """Round t: i keeps half and sends half to i + 2^(t mod tau) mod n, with tau = ceil(log2 n).

    One vector a worker and round. Its period averages exactly if and only if n = 2^tau.
    Reference: Assran et al. 2019 (arXiv 1811.10792); Ying et al. 2021 (arXiv 2110.13363).
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"one-peer-exponential needs at least one worker (n = {shown(n)}); use 1 or more")
    i = np.arange(n)
    identity = sparse.eye_array(n, format="csr")
    turns = [
        (identity + sparse.csr_array((np.ones(n), ((i + 2**k) % n, i)), shape=(n, n))) / 2
        for k in range((n - 1).bit_length())
    ]
    return cyclic(turns or [identity])


def union(schedule: Schedule, name: str = "") -> nx.Graph:
    """Who talks to whom in any of the schedule's ``rounds``; directed unless all their matrices are symmetric."""
    turns = [schedule.matrix(t) for t in schedule.rounds]
    graph = nx.Graph(name=name) if all(map(is_symmetric, turns)) else nx.DiGraph(name=name)
    graph.add_nodes_from(range(schedule.n))
    for w in turns:
        receivers, senders = w.nonzero()
        edges = zip(senders.tolist(), receivers.tolist(), strict=True)
        graph.add_edges_from((j, i) for j, i in edges if i != j)
    return graph


def mean_contraction(schedule: Schedule) -> float:
    """By what a round shrinks the squared distance of isotropic disagreement, in the mean over the ``rounds``.

    E |W x - xbar|^2 / |x - xbar|^2 = (|W|_F^2 - 1) / (n - 1) for doubly stochastic W.
    """
    if schedule.n == 1:
        return 0.0
    squares = [float((schedule.matrix(t).data ** 2).sum()) - 1 for t in schedule.rounds]
    return sum(squares) / len(squares) / (schedule.n - 1)


def product(schedule: Schedule) -> np.ndarray:
    """W(period - 1) ... W(1) W(0), the mixing of one whole period, as a dense array."""
    if schedule.n > LARGEST_PRODUCT:
        size = f"the product of a schedule of {schedule.n} workers is a dense matrix"
        raise ValueError(f"{size}; use at most {LARGEST_PRODUCT} workers")
    mixed = np.eye(schedule.n)
    for w in _period(schedule):
        mixed = w @ mixed
    return mixed


def period_rho(schedule: Schedule) -> float:
    """Norm |W(period - 1) ... W(0) - 11'/n|_2: 0 where a period averages exactly."""
    turns = _period(schedule)
    rows = [row for row in map(circulant_row, turns) if row is not None]
    if len(rows) < len(turns):
        return float(np.linalg.norm(product(schedule) - 1 / schedule.n, 2))
    # Circulant matrices share their eigenvectors: the eigenvalues of the product are the products.
    values = np.prod([np.fft.fft(row) for row in rows], axis=0)[1:]
    return float(abs(values).max(initial=0.0))


def _period(schedule: Schedule) -> list[sparse.csr_array]:
    if schedule.period is None:
        raise ValueError("a schedule without a period has no product over it; multiply the rounds you mean")
    return [schedule.matrix(t) for t in range(schedule.period)]
