"""Batches that no round has, for who looks at the loss beside training: numbered apart from the rounds'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.problems.objective import Objective

_BEYOND = 1 << 40
"""A round that no run comes to: batch k is that of round _BEYOND + k, so a function of the seed, the worker and k."""


class OtherBatches:
    """Losses and gradients on them, as the objective has them; all that it keeps stays as it is.

    A batch has as many samples as a round's, in training mode: batch norm takes the batch's own statistics.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def evaluated(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Of batch k, the losses (h,) and the gradients (h, d) at x (h, d)."""
        objective = self.objective
        losses, buffers = objective.losses, {name: b.clone() for name, b in objective.buffers.items()}
        blocks = [g.clone() for _, g in objective.gradient(x, _BEYOND + k)]
        found, objective.losses = objective.losses, losses
        for name, before in buffers.items():
            objective.buffers[name].copy_(before)
        return found, blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
