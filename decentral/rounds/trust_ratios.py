"""The trust ratios of a rule's step on the hosted workers, one at a time, so that their rows stay in cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from decentral.algorithms.state import map_state

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.rounds.by_rows import InBlocks, RowStep


def trust_ratios(step: RowStep, x: Tensor, state: Any, g: Tensor | InBlocks) -> Tensor:
    """(h, L): :meth:`Rule.trust_ratios` of the step from x (h, d) with g, which stay as they are, and so does state."""

    def of(rows: slice) -> Tensor:
        of_rows = map_state(lambda s: s[rows], state)
        return step.rule.trust_ratios(x[rows], of_rows, g[rows], step.layout, step.lr)

    return torch.cat([of(slice(k, k + 1)) for k in range(len(x))])
