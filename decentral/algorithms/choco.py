"""CHOCO: gossip of compressed differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.descent import descend
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


class Public(NamedTuple):
    """xh (h, d): what all neighbours of a worker believe its model to be; s (h, d) = W xh."""

    xh: Tensor
    s: Tensor


@dataclass(frozen=True)
class CHOCO:
    """Each worker sends the compressed difference to what its neighbours know of it, and all add it.

        y  = x - lr g
        q  = C(y - xh);     xh = xh + q;     s = s + W q     (both 0 at first)
        x  = y + gamma (s - xh)

    C is that of ``[compression]``; without one nothing is lost, and gamma = 1 is DSGD, adapt then combine.
    s is one sum for all neighbours, which holds for a W that never changes only. It rounds anew every round.
    Cost: one packet of C to each neighbour a round, whatever the degree one encoding.
    Fixed point: that of DSGD with W' = I + gamma (W - I), combined after the step, where C(0) = 0.
    Unstable for gamma too large for C; in theory gamma of the order of its contraction 1 - |x - C(x)|^2 / |x|^2.
    Reference: Koloskova, Stich, Jaggi, ICML 2019, arXiv 1902.00340.
    """

    traits: ClassVar[Traits] = Traits(title="CHOCO", needs=("static", "symmetric"), sends="differences")

    gamma: float = 1.0

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 0 < self.gamma <= 1:
            raise ValueError(
                f"gamma = {self.gamma} must be above 0 and at most 1; the coarser C, the smaller"
            )

    def init(self, x: Tensor, comm: Mixer) -> Public:
        """Nothing known yet."""
        admit(self, x, comm)
        return Public(x.new_zeros(x.shape), x.new_zeros(x.shape))

    def step(
        self, x: Tensor, state: Public, g: Tensor | None, comm: Mixer, lr: float
    ) -> tuple[Tensor, Public]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        y = descend(x, g, lr)
        q, mixed = comm.mix_sent(y.sub(state.xh))
        xh, s = state.xh.add_(q), state.s.add_(mixed)
        return y.add_(s, alpha=self.gamma).sub_(xh, alpha=self.gamma), Public(xh, s)
