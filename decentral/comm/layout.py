"""Layout of a flat vector: which of its columns are which parameter of a model, and of what kind the layer is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from topologies.wording import shown

Kind = Literal["convolution", "dense", "recurrent", "other"]


class Recurrent(nn.Module):
    """A layer with a state that goes from token to token and is not torch's own, or a part of such a layer."""


_KINDS: tuple[tuple[Kind, tuple[type[nn.Module], ...]], ...] = (
    ("convolution", (nn.modules.conv._ConvNd,)),
    ("dense", (nn.Linear, nn.Bilinear)),
    ("recurrent", (nn.RNNBase, nn.RNNCellBase, Recurrent)),
)


class Span(NamedTuple):
    """Columns ``start`` to ``stop`` of the vector: one parameter of this name and shape, in a layer of this kind."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    kind: Kind = "other"

    @property
    def size(self) -> int:
        """How many columns."""
        return self.stop - self.start

    @property
    def columns(self) -> slice:
        """The columns."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Layout:
    """Spans that cover the vector (d,) without a gap, in order. Sender and receiver have the same one."""

    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        if not self.spans or self.spans[0].start != 0:
            raise ValueError(
                f"spans = {shown(self.spans)} must begin at column 0; give at least one parameter that is trained"
            )
        for one, following in itertools.pairwise(self.spans):
            if one.stop != following.start:
                raise ValueError(
                    f"the span at {following.start} must begin at {one.stop}; leave no gap and no overlap"
                )
        for span in self.spans:
            if span.size < 1 or math.prod(span.shape) != span.size:
                raise ValueError(
                    f"{span} must have as many columns as its shape, at least 1; repair its borders"
                )
            if span.kind not in get_args(Kind):
                raise ValueError(
                    f"kind = {shown(span.kind)} must be one of {', '.join(get_args(Kind))}; choose one"
                )

    @property
    def d(self) -> int:
        """Columns of the vector."""
        return self.spans[-1].stop

    @cached_property
    def sizes(self) -> list[int]:
        """Columns of each span."""
        return [span.size for span in self.spans]

    @cached_property
    def matrices(self) -> list[bool]:
        """Of each span, whether its parameter has two dimensions or more."""
        return [len(span.shape) > 1 for span in self.spans]

    @classmethod
    def whole(cls, d: int) -> Layout:
        """One span of d columns, of no particular kind."""
        return cls((Span("x", 0, d, (d,)),))

    @classmethod
    def of(cls, source: nn.Module | Iterable[tuple[str, Tensor]]) -> Layout:
        """The layout of a module's parameters that require a gradient, in the order of ``named_parameters``.

        Those without entries have no columns. Of (name, parameter) by themselves as well, all of them, whose layers are
        of no particular kind.
        """
        spans, start = [], 0
        for name, parameter, kind in _parameters(source):
            spans.append(Span(name, start, start + parameter.numel(), tuple(parameter.shape), kind))
            start += parameter.numel()
        return cls(tuple(spans))

    def flatten(self, module: nn.Module) -> Tensor:
        """A copy of the module's parameters, (d,)."""
        named = dict(module.named_parameters())
        return torch.cat([named[span.name].detach().reshape(-1) for span in self.spans])

    def views(self, x: Tensor) -> dict[str, Tensor]:
        """Name -> view of x: (d,) gives the parameter's shape, (h, d) gives (h, *shape)."""
        lead, parts = tuple(x.shape[:-1]), x.split_with_sizes(self.sizes, -1)
        return {span.name: part.view(lead + span.shape) for span, part in zip(self.spans, parts, strict=True)}


def _parameters(source: nn.Module | Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor, Kind]]:
    if not isinstance(source, nn.Module):
        yield from ((name, parameter, "other") for name, parameter in source)
        return
    for name, parameter in source.named_parameters():
        if parameter.requires_grad and parameter.numel():
            owner = source.get_submodule(name.rpartition(".")[0])
            yield name, parameter, next((kind for kind, types in _KINDS if isinstance(owner, types)), "other")
