"""Networks of linear layers: multinomial logistic regression and the multi-layer perceptron.

Both map a batch (B, *shape) to logits (B, classes) and run under `torch.func.vmap`: no activation works in place, and
nothing branches on data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from decentral.errors import UserError

Shape = Sequence[int]
"""Of one example: (features,) or (channels, height, width)."""


def logistic(features: int | Shape, classes: int) -> nn.Module:
    """Multinomial logistic regression, convex: one linear layer on the flattened input.

    ``features``: their number, or the shape of an example. (features + 1) classes parameters.
    """
    return mlp(features, classes, hidden=())


class Separating(nn.Module):
    """f = w.x of the flattened input, as the logits (0, f) of two classes; w begins at 0."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 2) of inputs (B, *shape)."""
        f = x.flatten(1) @ self.weight
        return torch.stack([torch.zeros_like(f), f], dim=1)


def separating(shape: Shape, classes: int) -> nn.Module:
    """What a support vector machine trains: linear, without biases, from 0; of two classes only one vector."""
    features = math.prod(shape)
    if classes == 2:
        return Separating(features)
    linear = nn.Linear(features, classes, bias=False)
    nn.init.zeros_(linear.weight)
    return nn.Sequential(nn.Flatten(), linear)


def mlp(features: int | Shape, classes: int, hidden: Sequence[int] = (256,)) -> nn.Module:
    """Fully connected network with ReLU between its layers, ``hidden`` units in each hidden layer.

    Raises `UserError` for a width below one.
    """
    widths = [features if isinstance(features, int) else math.prod(features), *hidden]
    if min(widths) < 1:
        raise UserError(f"mlp: every layer needs at least 1 unit, found widths {widths}")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
