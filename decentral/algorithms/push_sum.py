"""Push-sum: stochastic gradient push, on directed graphs whose weights only the senders know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


class Mass(NamedTuple):
    """w (h, 1): the weight that has reached each worker; n in all."""

    w: Tensor


@dataclass(frozen=True)
class PushSum:
    """Workers push shares of a sum and of a weight; their quotient is the model.

        u = P (w x - lr g);    w = P w  (1 at first);    x = u / w

    The columns of P sum to one (weights "push"), so that sums over the workers are kept, whatever the rows are.
    g is the gradient at the quotient x. Where P is doubly stochastic w stays 1: DSGD, adapt then combine.
    Cost: one vector of d numbers, and w in the same packet, to each out-neighbour a round.
    Fixed point on quadratics f_i = (x - c_i)' A_i (x - c_i) / 2, with w the limit, D = blkdiag(A_i), O = blkdiag(w_i):
    (I - P) O X = P lr D (c - X); without bias from the graph being directed, but with DSGD's from differing data:
    O(lr^2) in squared distance.
    Unstable at lr L / w_i of about 2: a worker that little weight reaches takes larger steps.
    Reference: Assran, Loizou, Ballas, Rabbat, ICML 2019, arXiv 1811.10792; Nedic, Olshevsky 2016, arXiv 1406.2075.
    """

    # not linear: a quotient
    traits: ClassVar[Traits] = Traits(title="push-sum", needs=("columns",), weights="push", linear=False)

    def rest(self) -> Rest:
        """Where DSGD (atc) does, if P is doubly stochastic."""
        return Rest("atc", changing=True)

    def init(self, x: Tensor, comm: Mixer) -> Mass:
        """Weight one everywhere."""
        admit(self, x, comm)
        return Mass(x.new_ones((x.shape[0], 1)))

    def step(self, x: Tensor, state: Mass, g: Tensor, comm: Mixer, lr: float) -> tuple[Tensor, Mass]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        u = comm.mix_(x.mul_(state.w).sub_(g, alpha=lr))
        w = comm.along.mix(state.w)
        return u.div_(w), Mass(w)
