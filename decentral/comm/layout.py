"""Layout of a flat vector: which of its entries are which layer, and of what kind the layer is."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from torch import nn

Kind = Literal["convolution", "dense", "recurrent", "other"]

_KINDS: tuple[tuple[Kind, tuple[type[nn.Module], ...]], ...] = (
    ("convolution", (nn.modules.conv._ConvNd,)),
    ("dense", (nn.Linear, nn.Bilinear)),
    ("recurrent", (nn.RNNBase, nn.RNNCellBase)),
)


class Span(NamedTuple):
    """Entries ``start`` to ``stop`` of the vector: one parameter of this shape, in a layer of this kind."""

    start: int
    stop: int
    shape: tuple[int, ...]
    kind: Kind


@dataclass(frozen=True)
class Layout:
    """Spans that cover the vector (d,) without a gap, in order. Sender and receiver have the same one."""

    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        if not self.spans or self.spans[0].start != 0:
            raise ValueError(f"spans = {self.spans!r} must begin at entry 0; give at least one span")
        for one, following in itertools.pairwise(self.spans):
            if one.stop != following.start:
                raise ValueError(
                    f"span at {following.start} must begin at {one.stop}; leave no gap and no overlap"
                )
        for span in self.spans:
            if span.stop <= span.start or math.prod(span.shape) != span.stop - span.start:
                raise ValueError(
                    f"{span} must have as many entries as its shape, at least 1; repair its borders"
                )
            if span.kind not in get_args(Kind):
                raise ValueError(
                    f"kind = {span.kind!r} must be one of {', '.join(get_args(Kind))}; choose one"
                )

    @property
    def d(self) -> int:
        """Entries of the vector."""
        return self.spans[-1].stop

    @classmethod
    def whole(cls, d: int) -> Layout:
        """One span of d entries of no particular kind."""
        return cls((Span(0, d, (d,), "other"),))

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout of the parameters that require a gradient, in the order of ``named_parameters``."""
        spans, start = [], 0
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                owner = module.get_submodule(name.rpartition(".")[0])
                kind: Kind = next((kind for kind, types in _KINDS if isinstance(owner, types)), "other")
                spans.append(Span(start, start + parameter.numel(), tuple(parameter.shape), kind))
                start += parameter.numel()
        return cls(tuple(spans))
