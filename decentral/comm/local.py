"""All workers in this process: the simulator, and the reference for MPI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentral.comm.communicator import Communicator
from decentral.comm.plan import MixingPlan
from decentral.comm.row_sum import sum_rows
from decentral.comm.schedule import Mixing

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout
    from decentral.comm.links import Links, Sent


class LocalComm(Communicator):
    """n workers hosted here; ``mixing`` is a scipy or numpy matrix (n, n), or a Schedule. More: see Communicator.

    Raises ValueError if neither its rows nor its columns sum to one, or if it is not connected.
    """

    def __init__(
        self, mixing: Mixing, links: Links | None = None, layout: Layout | None = None, check: bool = True
    ) -> None:
        super().__init__(mixing, 0, 1, links=links, layout=layout, check=check)

    def _unchecked(self) -> LocalComm:
        return LocalComm(self.schedule, check=False)

    def share_root(self, x: Tensor) -> None:
        """There is one rank."""

    def observe(self, values: NDArray[Any]) -> NDArray[Any]:
        """All workers are here already."""
        return values

    def observe_neighbours(self, x: Tensor) -> Tensor:
        """All workers are here already."""
        return x[self.edges_in[:, 0].tolist()]

    def _start_mix(self, plan: MixingPlan, x: Tensor) -> None:
        return None

    def _finish_mix(self, plan: MixingPlan, x: Tensor, request: None, out: Tensor | None) -> Tensor:
        return plan.combine(x, None, out)

    def _carry(self, plan: MixingPlan, y: Tensor) -> Tensor:
        # out-edges are ordered by (sender, receiver), in-edges by (receiver, sender)
        order = np.lexsort((plan.out_edges[:, 0], plan.out_edges[:, 1]))
        return y[order.tolist()]

    def _mix_packets(self, plan: MixingPlan, sent: Sent) -> Tensor:
        return plan.combine(sent.rows, None)

    def _gather_packets(self, sent: Sent) -> Tensor:
        return sent.rows

    def _mean(self, x: Tensor) -> Tensor:
        return sum_rows(x).div_(self.n)
