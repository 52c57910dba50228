"""Exact diffusion: D2 on (I + W) / 2, which is stable on every symmetric W."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.algorithms.d2 import D2
from decentral.algorithms.traits import Traits

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


@dataclass(frozen=True)
class ExactDiffusion(D2):
    """Adapt, correct, combine.

        psi = x - lr g
        x+  = (I + W) / 2 (psi + c)
        c   = x+ - psi                          (0 at first; times lr / lr_prev where lr changes)

    Cost: one vector of d numbers to each neighbour a round.
    Fixed point: every worker at the minimiser of (1/n) sum f_i, no bias.
    Unstable on directed and on some changing W; on symmetric W every eigenvalue of (I + W) / 2 is at least 0.
    Reference: Yuan, Ying, Zhao, Sayed, IEEE TSP 2019, arXiv 1702.05122.
    """

    traits: ClassVar[Traits] = Traits(title="exact diffusion", least_eigenvalue=-1.0)

    def gossip(self, x: Tensor, comm: Mixer) -> Tensor:
        """(x + W x) / 2."""
        return comm.mix(x).add_(x).mul_(0.5)
