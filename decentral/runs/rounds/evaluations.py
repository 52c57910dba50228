"""The gradients that an update rule asks for beside those of the rounds, counted as samples and as time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from decentral.comm import Communicator
    from decentral.optimizers.rule import Rule
    from decentral.problems.objective import Objective


class Evaluations:
    """Those of ``rule``, whose state counts them for each worker; none of a rule that does not evaluate."""

    def __init__(self, rule: Rule | None, comm: Communicator, state: Any) -> None:
        self.counts, self.comm = rule is not None and rule.evaluates, comm
        self.seen = self._so_far(state)

    def newly(self, state: Any) -> list[NDArray[np.int64]]:
        """[of each hosted worker, how many since this was asked last (h,)]; [] if there can be none."""
        if not self.counts:
            return []
        before, self.seen = self.seen, self._so_far(state)
        return [self.seen - before]

    def of_rounds(self, objective: Objective, t: int) -> tuple[int | None, float | None]:
        """Samples, and passes over the data, of t rounds and of all evaluations. Every rank calls it."""
        samples, epoch = objective.samples(t), objective.epoch(t)
        if not self.counts or samples is None or epoch is None:
            return samples, epoch
        rounds = float(self.comm.observe(self.seen).sum()) / self.comm.n  # what all workers' rounds would be
        more, passes = objective.samples(1) or 0, objective.epoch(1) or 0
        return samples + round(more * rounds), epoch + passes * rounds

    def _so_far(self, state: Any) -> NDArray[np.int64]:
        if not self.counts:
            return np.zeros(self.comm.h, np.int64)
        found: NDArray[np.int64] = state.rule.evaluations[:, 0].cpu().numpy().copy()
        return found
