"""Which rows and which edges of a mixing plan go to, and come from, which rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decentral.comm.plan import MixingPlan


@dataclass(frozen=True)
class Routes:
    """Which rows and which edges go to, and come from, which rank."""

    plan: MixingPlan  # keeps the plan alive, so that its id stays its own
    halo_from: list[tuple[int, int, int]]
    rows_to: list[tuple[int, slice | list[int] | None]]  # None: all
    rows_sent: int
    sends_all: bool
    edges_from: list[tuple[int, int, int]]
    edges_to: list[tuple[int, list[int]]]
    edge_order: list[int]

    @classmethod
    def of(cls, plan: MixingPlan, h: int, rank: int) -> Routes:
        """Of ``plan`` on ``rank``, with h workers a rank."""
        senders, receivers = plan.out_edges[:, 0], plan.out_edges[:, 1]
        rows_to, rows_sent = [], 0
        for other in np.unique(receivers // h).tolist():
            if other != rank:
                rows = np.unique(senders[receivers // h == other]) - plan.lo
                rows_to.append((other, _picked(rows, h)))
                rows_sent += len(rows)
        edges_to = [
            (r, np.flatnonzero(receivers // h == r).tolist()) for r in np.unique(receivers // h).tolist()
        ]
        origin = plan.in_edges[:, 0] // h
        arrival = np.lexsort((plan.in_edges[:, 1], plan.in_edges[:, 0]))  # as senders packed them
        return cls(
            plan=plan,
            halo_from=_segments(plan.halo // h),
            rows_to=rows_to,
            rows_sent=rows_sent,
            sends_all=any(rows is None for _, rows in rows_to),
            edges_from=_segments(origin[arrival]),
            edges_to=edges_to,
            edge_order=np.argsort(arrival).tolist(),
        )


def _segments(owners: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(rank, start, stop) of each stretch of the ascending array ``owners``."""
    ranks, starts, counts = np.unique(owners, return_index=True, return_counts=True)
    return [(int(r), int(a), int(a + c)) for r, a, c in zip(ranks, starts, counts, strict=True)]


def _picked(rows: NDArray[np.int64], h: int) -> slice | list[int] | None:
    """These of h rows, in the form that costs least; None for all."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return None if len(rows) == h else slice(int(rows[0]), int(rows[-1]) + 1)
    return [int(row) for row in rows]
