"""A rule whose weight decay leaves some parameters out, as groups of a torch optimizer may."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from decentral.algorithms.state import map_state, tensors_of, with_tensors
from decentral.optimizers.rule import Rule

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout


@dataclass(frozen=True)
class Spared(Rule):
    """``rule`` on models (h, d), without weight decay on the spans of the layout that are called ``names``.

    It is asked for one stretch of neighbouring spans after the other, with its weight decay or without, and keeps the
    state of all: so each of its tensors has a column, or a number, of each parameter or span. A ``joint`` rule, which
    has one vector, is not to be had here, nor one that ``hears``.
    """

    layers: ClassVar[bool] = True  # stretches are found in whole rows

    rule: Rule
    names: Collection[str]

    def init(self, x: Tensor, layout: Layout) -> Any:
        """The rule's."""
        return self.rule.init(x, layout)

    def direction(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> tuple[Tensor, Any]:
        """See :class:`Rule`."""
        import torch

        d, after = torch.empty_like(x), state
        for part in self._parts(layout):
            of_part = part.of(state, layout)
            columns = part.columns
            d[:, columns], left = part.rule.direction(x[:, columns], of_part, g[:, columns], part.layout, lr)
            after = _put_back(of_part, left, state)
        return d, after

    def step_(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> Any:
        """See :class:`Rule`."""
        after = state
        for part in self._parts(layout):
            of_part = part.of(state, layout)
            columns = part.columns
            left = part.rule.step_(x[:, columns], of_part, g[:, columns], part.layout, lr)
            after = _put_back(of_part, left, state)
        return after

    def trust_ratios(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> Tensor:
        """See :class:`Rule`; for a rule that ``trusts``."""
        import torch

        found = []
        for part in self._parts(layout):
            of = (x[:, part.columns], part.of(state, layout), g[:, part.columns])
            found.append(part.rule.trust_ratios(*of, part.layout, lr))
        return torch.cat(found, 1)

    def _parts(self, layout: Layout) -> Iterator[_Part]:
        place = 0
        for spared, group in itertools.groupby(layout.spans, lambda span: span.name in self.names):
            spans = list(group)
            first = spans[0].start
            of_part = tuple(span._replace(start=span.start - first, stop=span.stop - first) for span in spans)
            rule = self.rule.decayed(0.0) if spared else self.rule
            yield _Part(
                rule,
                type(layout)(of_part),
                slice(first, spans[-1].stop),
                slice(place, place + len(spans)),
            )
            place += len(spans)


def spares(rule: Rule, layout: Layout) -> bool:
    """Whether :class:`Spared` can ask the rule on such models: for parts, each with its part of the state."""
    import torch

    if rule.joint or rule.hears:
        return False
    parts = (layout.d, len(layout.spans))
    tensors = tensors_of(rule.init(torch.zeros(1, layout.d), layout))
    return all(tensor.is_floating_point() and tensor.shape[-1] in parts for tensor in tensors)


@dataclass(frozen=True)
class _Part:
    """A stretch of the layout: its columns, which spans they are, and the rule there."""

    rule: Rule
    layout: Layout
    columns: slice
    spans: slice

    def of(self, state: Any, layout: Layout) -> Any:
        """The state of the stretch, in views."""

        def cut(tensor: Tensor) -> Tensor:
            if tensor.shape[-1] == layout.d:
                return tensor[..., self.columns]
            if tensor.shape[-1] == len(layout.spans):
                return tensor[..., self.spans]
            raise ValueError(f"{self.rule.title} keeps what is of no layer, so no layer can be spared")

        return map_state(cut, state)


def _put_back(of_part: Any, left: Any, state: Any) -> Any:
    """What the rule has left of a stretch goes into the tensors of ``state``; the state with its numbers."""
    for target, source in zip(tensors_of(of_part), tensors_of(left), strict=True):
        if target.data_ptr() != source.data_ptr():
            target.copy_(source)
    return with_tensors(left, tensors_of(state)) if left else left
