"""What is averaged over samples: losses of logits (B, ..., classes) and labels (B, ...), or of numbers."""

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


class MaskedSquares:
    """MMSE = sum_ui m_ui (y_ui - r_ui)^2 / sum_ui m_ui over a batch of outputs y (B, n) and ratings r (B, n).

    m is 1 where r is a number and 0 where it is NaN: what is rated, a rating of 0 too. So it is divided by the ratings
    of the whole batch, and not user by user. Root mean square error is its root. Kuchaiev and Ginsburg 2017 (arXiv
    1708.01715).
    """

    def __call__(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """The quotient, or with ``reduction`` "none" B n numbers, flat, whose mean it is."""
        rated = ~labels.isnan()
        squares = torch.where(rated, logits - labels, 0.0).square()
        if reduction == "mean":
            return squares.sum() / rated.sum()
        return squares.flatten() * (labels.numel() / rated.sum().to(squares.dtype))

    def terms(self, labels: Tensor) -> int:
        """How many numbers the mean of these labels is over."""
        return int((~labels.isnan()).sum())


masked_squares = MaskedSquares()
