"""Which rank's numbers ceased to be finite, and when: through mixing they spread from one to all."""

from __future__ import annotations

from math import isfinite

import numpy as np
from torch import Tensor

from decentral.comm import Communicator
from decentral.rounds.script.parameter_row import ParameterRow
from decentral.rounds.script.telling import say

_FEW = 1 << 14  # entries that may be summed in every step


class NotFinite:
    """What is said on standard error of NaN and infinity, where there are several workers.

    In every step the gradient of the smallest parameter is looked at, for a loss that is NaN makes nearly all gradients
    so; not on a GPU, which would have to be waited for. All of x is looked at where it is averaged anyway.
    """

    def __init__(self, row: ParameterRow, comm: Communicator) -> None:
        self.row, self.comm = row, comm
        self.smallest = min(row.parameters, key=Tensor.numel)
        self.looks = comm.n > 1 and self.smallest.device.type == "cpu" and self.smallest.numel() <= _FEW
        self.first = 0  # the step in which this rank's gradient was first seen not to be finite

    def look(self, t: int) -> None:
        """At this rank's gradient, before round t (from 0)."""
        gradient = self.smallest.grad
        if self.looks and gradient is not None and not isfinite(gradient.sum().item()):
            self.looks, self.first = False, t + 1
            say(
                0,
                f"rank {self.comm.rank}: the gradient of step {t + 1} is not finite, and spreads to its neighbours",
            )

    def tell(self, mean: Tensor, t: int) -> None:
        """Before round t, on every rank with the same mean of all models: whose is not finite."""
        if self.comm.n == 1 or isfinite(mean.sum().item()):
            return
        bad = not isfinite(self.row.x.sum().item())
        found = self.comm.observe(np.array([[float(bad), float(self.first)]]))
        ranks = ", ".join(str(rank) for rank, (is_bad, _) in enumerate(found) if is_bad)
        seen = {int(step): rank for rank, (_, step) in reversed([*enumerate(found)]) if step}
        text = f"after step {t} the models of ranks {ranks or 'none'} are not finite"
        say(
            self.comm.rank,
            text + (f"; rank {seen[min(seen)]}'s gradient was first, in step {min(seen)}" if seen else ""),
        )
