"""The running mean of the loss, which tells hard samples from easy ones."""

from __future__ import annotations

_KEPT = 0.75


class RunningMean:
    """S <- 0.75 S + 0.25 sum of the batch's losses, N <- 0.75 N + 0.25 B; the mean is S / N, from the first batch on.

    Reference: the code of the authors of arXiv:1905.03381.
    """

    def __init__(self) -> None:
        self.sum = self.count = 0.0

    def after(self, total: float, count: int) -> float:
        """The mean with a batch of ``count`` losses in it whose sum is ``total``."""
        self.sum = _KEPT * self.sum + (1 - _KEPT) * total
        self.count = _KEPT * self.count + (1 - _KEPT) * count
        return self.sum / self.count
