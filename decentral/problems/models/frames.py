"""A network that tells the class of each frame from the frames around it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import pad

from decentral.problems.models.layered import LayeredNetwork


class Neighbours(nn.Module):
    """Each frame with c = ``context`` frames on either side, zeros at the ends: (B, T, F) to (B, T, (2 c + 1) F)."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        """Features of neighbours one after the other, the earliest frame first."""
        c = self.context
        around: Tensor = pad(x, (0, 0, c, c)).unfold(1, 2 * c + 1, 1)  # (B, T, F, 2 c + 1)
        return around.mT.flatten(2)


def frame_network(features: int, context: int, hidden: Sequence[int], classes: int) -> LayeredNetwork:
    """A multi-layer perceptron with ReLU on each frame and its neighbours: (B, T, F) to logits (B, T, classes).

    A layer for each of ``hidden``, the first with :class:`Neighbours`.
    """
    widths = [(2 * context + 1) * features, *hidden]
    layers = [
        nn.Sequential(*([Neighbours(context)] if k == 0 else []), nn.Linear(inputs, outputs), nn.ReLU())
        for k, (inputs, outputs) in enumerate(itertools.pairwise(widths))
    ]
    return LayeredNetwork(layers, nn.Linear(widths[-1], classes))
