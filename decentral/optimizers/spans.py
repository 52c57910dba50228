"""Numbers of each layer of each worker: norms of the spans of rows (h, d), and factors on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Union

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout

Exclude = Literal["vectors", "none"]
"""What a rule of layers leaves to plain steps: biases and the gains of norms, or nothing."""

Spans = Union["Tensor", Sequence["Tensor"]]
"""Rows (h, d), or their L spans, (h, size) each, that lie apart."""


def spans_of(x: Spans, layout: Layout) -> list[Tensor]:
    """The L spans (h, size) of x."""
    return list(x if isinstance(x, Sequence) else x.split_with_sizes(layout.sizes, 1))


def pieces_of(x: Spans, layout: Layout) -> list[Tensor]:
    """The spans (size,) of each row of x, row after row."""
    if isinstance(x, Sequence):
        return [part for row in zip(*(part.unbind(0) for part in x), strict=True) for part in row]
    return [part for row in x.unbind(0) for part in row.split_with_sizes(layout.sizes)]


def norms(x: Spans, layout: Layout) -> Tensor:
    """Euclidean norms (h, L) of the L spans of x (h, d).

    On a CPU row by row, so that a worker's norms are the same bits whoever else is hosted with it.
    """
    import torch

    if not isinstance(x, Sequence) and len(x) > 1 and not x.stride(0):  # a mean, the same row for all
        return norms(x[:1], layout).expand(len(x), -1)
    parts = spans_of(x, layout)
    if parts[0].device.type != "cpu":
        return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], 1)
    # in C++, a call for all spans of all rows
    return torch.stack(torch._foreach_norm(pieces_of(x, layout))).view(len(parts[0]), len(parts))


def scaled_(x: Tensor, factors: Tensor, layout: Layout) -> Tensor:
    """x (h, d), each span of it times that of ``factors`` (h, L), in place."""
    import torch

    torch._foreach_mul_(x.split_with_sizes(layout.sizes, 1), factors.unsqueeze(2).unbind(1))
    return x


def added_(x: Tensor, y: Spans, factors: Tensor, layout: Layout) -> Tensor:
    """x + factors y, (h, d), in place: each span of y times that of ``factors`` (h, L), in one pass."""
    import torch

    mine, theirs = (spans_of(one, layout) for one in (x, y))
    torch._foreach_addcmul_(mine, theirs, factors.unsqueeze(2).unbind(1))
    return x


def decay_of(x: Tensor, decay: float, layout: Layout, exclude: Exclude) -> Tensor:
    """decay x, (h, d), and 0 on the spans that ``exclude`` names."""
    acts = acted_on(layout, exclude)
    if not decay or not any(acts):
        return x.new_zeros(x.shape)
    u = x.mul(decay)
    for part, acted in zip(spans_of(u, layout), acts, strict=True):
        if not acted:
            part.zero_()
    return u


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
