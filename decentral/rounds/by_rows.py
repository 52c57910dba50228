"""A rule's step on the hosted workers, some of them at a time, so that their rows stay in cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from decentral.algorithms.state import map_state, tensors_of, with_tensors
from decentral.blocks import block_height
from decentral.rounds.team import Work, share

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout
    from decentral.optimizers.rule import Rule
    from decentral.optimizers.spans import Spans


class InBlocks:
    """Gradients (h, d) that lie in blocks of columns, put together for the rows that are asked for and no others."""

    def __init__(self, blocks: list[Tensor]) -> None:
        self.blocks = blocks

    def __getitem__(self, rows: slice) -> Tensor:
        return torch.cat([block[rows] for block in self.blocks], dim=1)

    def spans(self, rows: slice, layout: Layout) -> Spans:
        """These rows, apart as they lie where each block is a span."""
        apart = [block.shape[1] for block in self.blocks] == layout.sizes
        # a batch of backward passes may leave a block column by column, where sums have another order
        return [block[rows].contiguous() for block in self.blocks] if apart else self[rows]


@dataclass(frozen=True)
class RowStep:
    """``rule`` on models of this layout: ``in_place``, its own step of x, or its direction.

    A rule of layers is given whole rows, and each row is its own, so workers take turns where columns cannot; torch's
    threads share them.
    """

    rule: Rule
    layout: Layout
    lr: float
    in_place: bool

    def __call__(self, x: Tensor, state: Any, g: Tensor | InBlocks) -> tuple[Tensor | None, Any]:
        """(d (h, d), or None where the step was made on x; the state after it)."""
        h, d = x.shape
        in_turns = self.rule.whole and x.device.type == "cpu"
        rows = block_height(h, d, torch.get_num_threads()) if in_turns else h
        if rows >= h:
            return self._act(x, state, self._given(g, slice(None)))
        directions = None if self.in_place else torch.empty_like(x)
        left: list[Any] = [state]
        works = (
            partial(self._part, slice(k, k + rows), x, state, g, directions, left) for k in range(0, h, rows)
        )
        _do(works)
        return directions, with_tensors(left[0], tensors_of(state))

    def _given(self, g: Tensor | InBlocks, rows: slice) -> Any:
        if isinstance(g, InBlocks) and self.rule.apart:
            return g.spans(rows, self.layout)
        return g[rows]

    def _act(self, x: Tensor, state: Any, g: Any) -> tuple[Tensor | None, Any]:
        if self.in_place:
            return None, self.rule.step_(x, state, g, self.layout, self.lr)
        return self.rule.direction(x, state, g, self.layout, self.lr)

    def _part(
        self, rows: slice, x: Tensor, state: Any, g: Tensor | InBlocks, d: Tensor | None, left: list[Any]
    ) -> None:
        """These rows; what the rule leaves of them is put into ``state`` and ``d``, its numbers into ``left``."""
        of_rows = map_state(lambda s: s[rows], state)
        direction, after = self._act(x[rows], of_rows, self._given(g, rows))
        for target, source in zip(tensors_of(of_rows), tensors_of(after), strict=True):
            if target.data_ptr() != source.data_ptr():
                target.copy_(source)
        if d is not None and direction is not None:
            d[rows] = direction
        left[0] = after


def _do(works: Iterator[Work]) -> None:
    threads = torch.get_num_threads()
    if threads > 1:
        share(works, threads)
        return
    for work in works:
        work()
