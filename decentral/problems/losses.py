"""What is averaged over samples: losses of logits (B, ..., classes) and labels (B, ...)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Loss(Protocol):
    """One number for each label, or their mean."""

    def __call__(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """The mean, or with ``reduction`` "none" all of them, flat."""


def cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of logits (B, ..., classes) and labels (B, ...): one per example, or one per token.

    Their mean, or with ``reduction`` "none" all of them, flat.
    """
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction=reduction)


def hinge(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """The multiclass hinge loss of Crammer and Singer (2001): max over classes j of 1[j != y] + z_j - z_y.

    With the logits (0, f) of two classes it is max(0, 1 - s f), s = 1 for label 1 and -1 for label 0.
    """
    z, y = logits.flatten(0, -2), labels.flatten().unsqueeze(1)
    wrong = torch.arange(z.shape[1], device=z.device) != y
    losses = (z + wrong.to(z.dtype)).max(1).values - z.gather(1, y).squeeze(1)
    return losses.mean() if reduction == "mean" else losses
