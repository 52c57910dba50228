"""A deep autoencoder with declared layers: from a user's ratings of n items to those of all n."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from decentral.errors import UserError
from decentral.problems.models.layered import LayeredNetwork

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "selu": nn.SELU,
    "elu": nn.ELU,
    "lrelu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class TiedLinear(nn.Module):
    """y = W' x + b, with the weights W of a layer of the encoder and a bias of its own, which starts at 0."""

    def __init__(self, encoder: nn.Linear) -> None:
        super().__init__()
        self.weight = encoder.weight
        self.bias = nn.Parameter(torch.zeros(encoder.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs of the encoder's layer) to (B, its inputs)."""
        return functional.linear(x, self.weight.T, self.bias)


def autoencoder(
    items: int, hidden: Sequence[int], activation: str = "selu", last_activation: bool = True,
    dropout: float = 0.0, tied: bool = False,
) -> LayeredNetwork:  # fmt: skip
    """n items -> ``hidden`` -> n items: with k widths k layers that encode and k that mirror them, the last the head.

    (B, items) to (B, items). Each layer is linear with an activation behind, the last too unless ``last_activation``
    is false. Weights are Xavier-uniform, biases 0. The last width is the code's, which ``dropout`` alone acts on.
    ``tied``: the decoder's weights are the encoder's, transposed (:class:`TiedLinear`).
    Reference: Kuchaiev and Ginsburg 2017 (arXiv 1708.01715). Raises UserError for no widths or one below 1.
    """
    if not hidden or min(items, *hidden) < 1:
        raise UserError(
            f"autoencoder: every layer needs at least 1 unit, found {items} items and {list(hidden)}"
        )
    acts = ACTIVATIONS[activation]
    encoder = [_linear(inputs, outputs) for inputs, outputs in itertools.pairwise([items, *hidden])]
    mirrored: list[nn.Module] = [
        TiedLinear(layer) if tied else _linear(layer.out_features, layer.in_features)
        for layer in reversed(encoder)
    ]
    parts = [[layer, acts()] for layer in [*encoder, *mirrored]]
    if dropout:
        parts[len(hidden) - 1].append(nn.Dropout(dropout))
    if not last_activation:
        parts[-1].pop()
    *layers, head = (nn.Sequential(*part) for part in parts)
    return LayeredNetwork(layers, head)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
