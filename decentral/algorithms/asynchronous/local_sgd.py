"""Asynchronous local SGD: several steps alone between two averages with a neighbour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.algorithms.asynchronous.exchange import Exchange
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.algorithms.asynchronous.side import Neighbourhood


@dataclass(frozen=True)
class AsyncLocalSGD:
    """AD-PSGD that asks for an average after every ``every``-th own step only, and never waits for it.

        x_i <- x_i - lr g_i;  after steps every, 2 every, ...:  x_i, x_j <- (x_i + x_j) / 2,  j a random neighbour

    by displacements, as ``exchange`` says; a turn is left out while the last request is out.
    every = 1 is AD-PSGD (with other random neighbours).
    Cost: two vectors of d numbers in ``every`` steps.
    This combination is ours: the steps are those of local SGD (Stich, ICLR 2019, arXiv 1805.09767), the average is that
    of AD-PSGD (Lian et al., ICML 2018, arXiv 1710.06952).
    """

    traits: ClassVar[Traits] = Traits(title="async local SGD", needs=("static", "symmetric"), sends="edges")

    every: int = 4

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.every < 1:
            raise ValueError(f"every = {self.every} must be at least 1; 1 asks after every step")

    def side(self, x: Tensor, near: Neighbourhood) -> Exchange:
        """One worker's side, from the model x (1, d)."""
        return Exchange(x, near, self.every, "async-local-sgd")
