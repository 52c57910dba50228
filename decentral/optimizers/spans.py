"""Numbers of each layer of each worker: norms of the spans of rows (h, d), and factors on them."""

from __future__ import annotations

from itertools import compress
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

    if len(x) > 1 and not x.stride(0):  # a mean, the same row for all
        return norms(x[:1], layout).expand(len(x), -1)
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


def added_(x: Tensor, y: Tensor, factors: Tensor, layout: Layout) -> Tensor:
    """x + factors y, (h, d), in place: each span of y times that of ``factors`` (h, L), in one pass."""
    import torch

    mine, theirs = (one.split_with_sizes(layout.sizes, 1) for one in (x, y))
    torch._foreach_addcmul_(mine, theirs, factors.unsqueeze(2).unbind(1))
    return x


def decayed_(x: Tensor, y: Tensor, decay: float, layout: Layout, exclude: Exclude) -> Tensor:
    """x + decay y, (h, d), in place, on the spans that ``exclude`` leaves."""
    import torch

    if not any(acts := acted_on(layout, exclude)):
        return x
    if all(acts):
        return x.add_(y, alpha=decay)
    mine, theirs = (list(compress(one.split_with_sizes(layout.sizes, 1), acts)) for one in (x, y))
    torch._foreach_add_(mine, theirs, alpha=decay)
    return x


def acted_on(layout: Layout, exclude: Exclude) -> list[bool]:
    """Whether a rule of layers acts on a span, of each: "vectors" leaves out what has one dimension."""
    return layout.matrices if exclude == "vectors" else [True] * len(layout.sizes)


def nothing_acted_on(rule: object, layout: Layout) -> str:
    """What to say of a rule of layers that finds vectors only, and leaves those to plain steps; else ""."""
    if getattr(rule, "exclude", "none") == "none" or any(layout.matrices):
        return ""
    return (
        f"{type(rule).__name__} acts on nothing here: all parameters are vectors, which exclude = 'vectors' leaves to "
        "plain steps; set exclude = 'none' for its rates"
    )


def where_acted(factors: Tensor, layout: Layout, exclude: Exclude, norms: tuple[Tensor, Tensor]) -> Tensor:
    """``factors`` (h, L), and 1 on spans that ``exclude`` names, or one of whose two norms (h, L) is 0."""
    is_used = (norms[0] > 0) & (norms[1] > 0)
    if exclude == "vectors":
        is_used &= is_used.new_tensor(layout.matrices)
    return factors.where(is_used, 1.0)
