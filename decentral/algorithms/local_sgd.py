"""Local SGD: workers alone, and the exact average now and then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.algorithms.admission import admit
from decentral.algorithms.momentum import Momentum, accumulate, check_momentum
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


@dataclass(frozen=True)
class LocalSGD:
    """``every`` steps of each worker alone, then the mean of all models.

        m = beta m + g
        x = x - lr m;    after every ``every``-th round    x = mean(x)

    Momentum stays with its worker. The graph plays no part.
    Cost: one all-reduce of d numbers in ``every`` rounds.
    Fixed point (beta = 0, full gradients of f_i = (x - c_i)' A_i (x - c_i) / 2, just after an average):
    x = [I - mean T_i]^-1 mean (I - T_i) c_i with T_i = (I - lr A_i)^every; no bias for every = 1.
    Unstable at lr L >= 2 (1 + beta) on quadratics, for n = 1 as for any n.
    Reference: Stich, ICLR 2019, arXiv 1805.09767.
    """

    traits: ClassVar[Traits] = Traits(title="local SGD")

    every: int = 10
    momentum: float = 0.0

    def __post_init__(self) -> None:
        plain_settings(self)
        check_every(self.every)
        check_momentum(self.momentum)

    def init(self, x: Tensor, comm: Mixer) -> Momentum:
        """Zero momentum."""
        admit(self, x, comm)
        return Momentum(x.new_zeros(x.shape))

    def step(self, x: Tensor, state: Momentum, g: Tensor, comm: Mixer, lr: float) -> tuple[Tensor, Momentum]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        m = accumulate(state.m, self.momentum, g)
        x = x.sub_(m, alpha=lr)
        return (x.copy_(comm.mean(x)) if is_due(self.every, comm) else self.between(x, comm)), Momentum(m)

    def between(self, x: Tensor, comm: Mixer) -> Tensor:
        """What is done with x in other rounds: nothing."""
        del comm
        return x


def is_due(every: int, comm: Mixer) -> bool:
    """Whether this is an ``every``-th round."""
    return (comm.t + 1) % every == 0


def check_every(every: int) -> None:
    """Refuse a number of rounds below one."""
    if every < 1:
        raise ValueError(f"every = {every} must be at least 1; 1 averages in every round")
