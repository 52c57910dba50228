"""Networks of linear layers: multinomial logistic regression and the multi-layer perceptron.

Both map a batch (B, *shape) to logits (B, classes) and run under `torch.func.vmap`: no activation works in place, and
nothing branches on data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

from decentral.errors import UserError

Shape = Sequence[int]
"""Of one example: (features,) or (channels, height, width)."""


def logistic(features: int | Shape, classes: int) -> nn.Module:
    """Multinomial logistic regression, convex: one linear layer on the flattened input.

    ``features``: their number, or the shape of an example. (features + 1) classes parameters.
    """
    return mlp(features, classes, hidden=())


def separating(shape: Shape, classes: int) -> nn.Module:
    """What a support vector machine trains: linear, without biases, from 0.

    Of two classes only one vector w, whose f = w.x is the logits (0, f).
    """
    linear = nn.Linear(math.prod(shape), classes if classes > 2 else 1, bias=False)
    nn.init.zeros_(linear.weight)
    return nn.Sequential(nn.Flatten(), linear, *([nn.ZeroPad1d((1, 0))] if classes == 2 else []))


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
