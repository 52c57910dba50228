"""A network that says what its layers are, so that it can be cut into stages anywhere between two of them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


class LayeredNetwork(nn.Module):
    """``layers`` one after the other, each a map of one tensor to one, then ``head``, which gives logits."""

    def __init__(self, layers: Iterable[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the batch ``x``."""
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x)
        return logits
