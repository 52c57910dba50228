"""Numbers of each layer of each worker: norms of the spans of rows (h, d), and factors on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout

Exclude = Literal["vectors", "none"]
"""What a rule of layers leaves to plain steps: biases and the gains of norms, or nothing."""


def norms(x: Tensor, layout: Layout) -> Tensor:
    """Euclidean norms (h, L) of the L spans of x (h, d).

    On a CPU row by row, so that a worker's norms are the same bits whoever else is hosted with it.
    """
    import torch

    if x.device.type != "cpu":
        parts = x.split_with_sizes(layout.sizes, 1)
        return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], 1)
    # in C++, a call for all spans of all rows
    pieces = [part for row in x.unbind(0) for part in row.split_with_sizes(layout.sizes)]
    return torch.stack(torch._foreach_norm(pieces)).view(len(x), len(layout.sizes))


def scaled_(x: Tensor, factors: Tensor, layout: Layout) -> Tensor:
    """x (h, d), each span of it times that of ``factors`` (h, L), in place."""
    import torch

    torch._foreach_mul_(x.split_with_sizes(layout.sizes, 1), factors.unsqueeze(2).unbind(1))
    return x


def acted_on(layout: Layout, exclude: Exclude, like: Tensor) -> Tensor:
    """Of each span 1 where a rule of layers acts on it, else 0, (L,): "vectors" leaves out what has one dimension."""
    return like.new_tensor([exclude == "none" or len(span.shape) > 1 for span in layout.spans])
