"""DSGD: decentralized stochastic gradient descent, adapt-then-combine or adapt-while-combine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from decentral.algorithms.admission import admit
from decentral.algorithms.descent import descend
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


@dataclass(frozen=True)
class DSGD:
    """A gradient step and an average over the neighbours.

        x = W (x - lr g)        (variant "atc", adapt then combine)
        x = W x - lr g          (variant "awc", adapt while combine: x may travel during the gradient)

    Cost: one vector of d numbers to each neighbour a round.
    Fixed point on quadratics f_i = (x - c_i)' A_i (x - c_i) / 2 with D = blkdiag(A_i):
    (I - W + lr W D) X = lr W D c (atc), (I - W + lr D) X = lr D c (awc); its squared distance to the optimum
    is O(lr^2 b^2 / gap^2), where b^2 = (1/n) sum |grad f_i(x*)|^2; for atc it vanishes as W tends to exact averaging.
    Unstable at lr L >= 2 (atc), lr L >= 1 + lambda_n (awc).
    """

    traits: ClassVar[Traits] = Traits(title="DSGD")

    variant: Literal["atc", "awc"] = "atc"

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.variant not in ("atc", "awc"):
            raise ValueError(f"variant = {shown(self.variant)} must be 'atc' or 'awc'")

    def rest(self) -> Rest:
        """Apart, with the learning rate lr."""
        return Rest(self.variant, changing=True)

    def init(self, x: Tensor, comm: Mixer) -> tuple[()]:
        """DSGD keeps no state."""
        admit(self, x, comm)
        return ()

    def step(
        self, x: Tensor, state: tuple[()], g: Tensor | None, comm: Mixer, lr: float
    ) -> tuple[Tensor, tuple[()]]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        if self.variant == "atc":
            return comm.mix_(descend(x, g, lr)), state
        return descend(comm.mix_(x), g, lr), state
