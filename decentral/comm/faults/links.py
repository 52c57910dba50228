"""Links that lose messages, deliver them late, or lead to workers that are away.

A method mixes as ever: what is sent is billed as sent, and the mixing matrix becomes what arrives
(:mod:`decentral.comm.faults.fates`). Where messages come late, vectors of earlier rounds are kept, so the
round loop does not cut columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm.faults.fates import LOST, UNSENT, Fates
from decentral.comm.plan import MixingPlan, plan_for

Apply = Callable[[MixingPlan, Tensor], Tensor]


@dataclass(frozen=True)
class _Round:
    """The mixing plan of age 0, and of further ages, None where nothing has it; who is away; what each worker sent."""

    plan: MixingPlan
    older: list[MixingPlan | None]
    away: list[int]
    out_degree: NDArray[np.int64]
    lost: int
    late: int
    column_sums: NDArray[np.float64]


class Faults:
    """The faults of the links of the hosted workers ``rows``.

    ``pushes``: columns of the mixing matrix sum to one and must go on to do so (push-sum); else rows.
    ``vectors``, ``numbers``: for each vector that is sent in a round, and each number of a worker that rides along, and
    for each age k = 1, 2, ...: rows (h, d), (h, 1) that the hosted workers sent k rounds ago, or, where they push, that
    will have arrived in k rounds. ``counts``: [messages lost, messages late], of all n workers, the same on every rank.
    ``drift``: (h, d) float64, as models ``x`` are; its mean over the workers is what faults have added, over all
    rounds, to the mean of the first vector that is mixed in a round, which is the model in all methods here.
    """

    def __init__(self, fates: Fates, pushes: bool, rows: range, x: Tensor) -> None:
        self.fates, self.pushes, self.hosted = fates, pushes, rows
        self.vectors: list[list[Tensor]] = []
        self.numbers: list[list[Tensor]] = []
        self.counts = np.zeros(2, dtype=np.int64)
        self.drift = torch.zeros_like(x, dtype=torch.float64)
        self.t: int | None = None
        self.calls = {True: 0, False: 0}
        self._rounds: dict[int, _Round] = {}

    def at(self, t: int) -> Faults:
        """These links in round t, with nothing sent yet."""
        bound = object.__new__(Faults)
        bound.__dict__.update(self.__dict__, t=t, calls={True: 0, False: 0})
        return bound

    @property
    def round(self) -> _Round:
        """What becomes of the messages of this round."""
        if self.t is None:
            raise ValueError("links with faults need to know the round; hand the method comm.at(t)")
        if self.t not in self._rounds:
            self._rounds.clear()
            self._rounds[self.t] = self._plan(self.t)
        return self._rounds[self.t]

    def away(self, t: int) -> list[int]:
        """The hosted rows whose workers are absent in round t."""
        return [worker - self.hosted.start for worker in self.fates.away(t) if worker in self.hosted]

    def _plan(self, t: int) -> _Round:
        fates, lo, hi = self.fates, self.hosted.start, self.hosted.stop
        messages = fates.messages(t)
        sent = messages.senders[messages.delays != UNSENT]
        matrices = fates.pushed(t) if self.pushes else fates.stale(t)
        sums = messages.own + np.bincount(messages.senders, messages.weights, len(messages.own))
        return _Round(
            plan=plan_for(matrices[0], lo, hi),
            older=[plan_for(w, lo, hi) if w.nnz else None for w in matrices[1:]],
            away=self.away(t),
            out_degree=np.bincount(sent[(sent >= lo) & (sent < hi)] - lo, minlength=hi - lo).astype(np.int64),
            lost=int((messages.delays == LOST).sum()),
            late=int((messages.delays > 0).sum()),
            column_sums=sums[lo:hi],
        )

    def mix(self, x: Tensor, rider: bool, apply: Apply) -> Tensor:
        """What arrives of x (h, d), the next vector of this round, or number (h, 1) that rides along with one.

        ``apply``: a plan and rows to the hosted rows of the mixed ones.
        """
        now, kept = self.round, self.numbers if rider else self.vectors
        call = self.calls[rider]
        self.calls[rider] += 1
        if call == len(kept):
            kept.append([torch.zeros_like(x) for _ in range(self.fates.ages)])
        if not rider:
            self.counts += now.lost, now.late
        mixed, under_way = (self._push if self.pushes else self._recall)(x, kept[call], now, apply)
        if not rider and call == 0:
            self._follow(x, mixed, under_way, now)
        return mixed

    def _recall(
        self, x: Tensor, sent: list[Tensor], now: _Round, apply: Apply
    ) -> tuple[Tensor, Tensor | None]:
        """sum_k V(k) x(t - k), the last x in ``sent``; nothing is under way that will be added."""
        mixed = apply(now.plan, x)
        for plan, before in zip(now.older, sent, strict=True):
            if plan is not None:
                mixed.add_(apply(plan, before))
        if sent:
            sent[:] = [x.clone(), *sent[:-1]]
        return mixed, None

    def _push(
        self, x: Tensor, coming: list[Tensor], now: _Round, apply: Apply
    ) -> tuple[Tensor, Tensor | None]:
        """P(0) x and what has come of earlier rounds; what has been added to ``coming``, less what has come."""
        mixed = apply(now.plan, x)
        if not coming:
            return mixed, None
        arrived = coming[0]
        coming[:] = [*coming[1:], torch.zeros_like(x)]
        coming[0][now.away] += arrived[now.away]  # it waits for those who are absent
        arrived[now.away] = 0
        mixed.add_(arrived)
        under_way = arrived.neg_()
        for plan, rows in zip(now.older, coming, strict=True):
            if plan is not None:
                share = apply(plan, x)
                rows.add_(share)
                under_way.add_(share)
        return mixed, under_way

    def _follow(self, x: Tensor, mixed: Tensor, under_way: Tensor | None, now: _Round) -> None:
        """Enter in ``drift`` what mixing has made of the sum of x and what W would have."""
        sums = torch.from_numpy(now.column_sums).to(x.device)[:, None]
        self.drift.add_(mixed).sub_(x.double() * sums)
        if under_way is not None:
            self.drift.add_(under_way)
