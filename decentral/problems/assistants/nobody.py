"""No Assistant: the baseline, measured alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decentral.problems.assistants.assistant import Assistant, Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Nobody(Assistant):
    """Every sample is kept: ordinary training, whose batches come from the other program. ``base`` is 1."""

    base: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base != 1:
            raise ValueError(f'base = {self.base} of assistant.name = "none" must be 1; remove the key')

    def chooser(self, x: Tensor, y: Tensor, classes: int, seed: int) -> Everything:
        """See :class:`Assistant`."""
        del x, y, classes, seed
        return Everything()

    def tell(self, batch: Batch) -> Tensor:
        """Nothing."""
        return batch.losses.new_empty(0)


class Everything:
    """It judges nothing, and learns nothing."""

    scan_flops = learn_flops = 0.0

    def keep(self, rows: Tensor, k: Tensor) -> Tensor:
        """See :class:`Chooser`."""
        del k
        return rows.new_ones(len(rows)).double()

    def learn(self, rows: Tensor, told: Tensor) -> None:
        """See :class:`Chooser`."""
