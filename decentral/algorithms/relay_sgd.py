"""RelaySGD: on a tree, every worker's model reaches every other exactly once, only later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.descent import descend
from decentral.algorithms.rest import Rest
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


class Relay(NamedTuple):
    """m (e', d): the last message of each edge that enters; c (e', 1): how many models are in it; start (h, d)."""

    m: Tensor
    c: Tensor
    start: Tensor


class GradientRelay(NamedTuple):
    """m (e', d): the last message of each edge that enters."""

    m: Tensor


@dataclass(frozen=True)
class RelaySGD:
    """Messages along a tree, each the sum of what lies behind it, instead of averages.

        y_i = x_i - lr g_i
        m_ij = y_i + sum_{k != j} m_ki of the last round;     c_ij = 1 + sum_{k != j} c_ki     (i to j; 0 at first)
        x_i = (y_i + sum_j m_ji + (n - N_i) x_i(0)) / n;      N_i = 1 + sum_j c_ji             (form "model")
        m_ij = lr g_i + sum_{k != j} m_ki;                    x_i = x_i - (lr g_i + sum_j m_ji) / n   (form "gradient")

    Each model, or gradient, arrives at each worker once: that of a neighbour in the same round, of others a round later
    for each further edge. The weights of W do not matter.
    Cost: one vector of d numbers to each neighbour a round, and in form "model" a count in the same packet.
    Fixed point: "model": every worker at the minimiser of (1/n) sum f_i, no bias. "gradient": sum_i g_i = 0, but
    workers stay apart by what is under way: x_i = z + (lr / n) sum_k tau_ik g_k, where tau_ik is the distance in the
    tree less one, and 0 for i = k.
    Unstable at learning rates that fall with the diameter.
    Reference: Vogels, He, Koloskova, Lin, Karimireddy, Stich, Jaggi, NeurIPS 2021, arXiv 2110.04175.
    """

    # linear, but its state is on edges: not of the modes of W
    traits: ClassVar[Traits] = Traits(title="RelaySGD", needs=("static", "tree"), sends="edges", linear=False)

    form: Literal["model", "gradient"] = "model"

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.form not in ("model", "gradient"):
            raise ValueError(f"form = {shown(self.form)} must be 'model' or 'gradient'")

    def rest(self) -> Rest | None:
        """At the minimiser in form "model"; in the other workers stay apart."""
        return Rest("none") if self.form == "model" else None

    def init(self, x: Tensor, comm: Mixer) -> Relay | GradientRelay:
        """Nothing has arrived."""
        admit(self, x, comm)
        edges = len(comm.edges_in)
        m = x.new_zeros((edges, x.shape[1]))
        if self.form == "gradient":
            return GradientRelay(m)
        return Relay(m, x.new_zeros((edges, 1)), x.clone())

    def step(
        self, x: Tensor, state: Relay | GradientRelay, g: Tensor | None, comm: Mixer, lr: float
    ) -> tuple[Tensor, Relay | GradientRelay]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        if isinstance(state, GradientRelay):
            own = g.mul(lr)  # type: ignore[union-attr]  # in this form it never comes without
            m = _relayed(own, state.m, comm)
            return x.sub_(own.add_(comm.arrived(m)), alpha=1 / comm.n), GradientRelay(m)
        y = descend(x, g, lr)
        m = _relayed(y, state.m, comm)
        c = _relayed(y.new_ones((y.shape[0], 1)), state.c, comm.along)
        missing = comm.arrived(c).add_(1).neg_().add_(comm.n)
        y = y.add_(comm.arrived(m)).addcmul_(missing, state.start)
        return y.div_(comm.n), Relay(m, c, state.start)


def _relayed(own: Tensor, m: Tensor, comm: Mixer) -> Tensor:
    """The messages that arrive: own (h, d) plus all that came last but for what came from the receiver."""
    return comm.exchange(comm.departing(own.add(comm.arrived(m))).sub_(m))
