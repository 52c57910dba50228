"""The Assistant that learns which samples are hard: a logistic model of the raw inputs and the label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decentral.problems.assistants.assistant import Assistant, Batch
from topologies.streams import stream

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Logistic(Assistant):
    """A logistic model of the raw inputs and the label, which learns whose loss is above the running mean.

        p_i = base + (1 - base) sigmoid(W.x_i + U[y_i])

    Its target is 1[loss_i > mean], or with ``target`` "misclassified" 1[the Boss's prediction is wrong]. One step of
    gradient descent a batch, W and U drawn from 0.001 N(0, 1):

        r_i = sigmoid(W.x_i + U[y_i]) - target_i
        W <- W - lr / B (sum_i r_i x_i + decay W),      U[y_i] <- U[y_i] - lr / B (r_i + decay U[y_i])  for each i

    Reference: arXiv:1905.03381; the numbers and the step are those of its authors' code.
    """

    target: Literal["mean", "misclassified"] = "mean"
    lr: float = 0.01
    decay: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("lr", "decay"):
            if getattr(self, key) < 0:
                raise ValueError(
                    f"{key} = {getattr(self, key)} must not be negative; 0.01 and 0.001 are usual"
                )

    def chooser(self, x: Tensor, y: Tensor, classes: int, seed: int) -> LogisticModel:
        """See :class:`Assistant`."""
        return LogisticModel(self, x, y, classes, seed)

    def tell(self, batch: Batch) -> Tensor:
        """The targets (B,)."""
        return batch.losses > batch.mean if self.target == "mean" else ~batch.right


class LogisticModel:
    """W (features,) and U (classes,); see :class:`Logistic`."""

    def __init__(self, settings: Logistic, x: Tensor, y: Tensor, classes: int, seed: int) -> None:
        self.settings, self.x, self.y = settings, x, y
        drawn = stream(seed, "assistant").standard_normal(x.shape[1] + classes)
        first = x.new_tensor(0.001 * drawn)
        self.w, self.u = first[: x.shape[1]].clone(), first[x.shape[1] :].clone()
        self.scan_flops, self.learn_flops = 2.0 * x.shape[1], 4.0 * x.shape[1]

    def keep(self, rows: Tensor, k: Tensor) -> Tensor:
        """See :class:`Chooser`."""
        del k
        base = self.settings.base
        return base + (1 - base) * self._hard(self.x.index_select(0, rows), self.y[rows])

    def learn(self, rows: Tensor, told: Tensor) -> None:
        """See :class:`Chooser`."""
        x, y = self.x.index_select(0, rows), self.y[rows]
        lr, decay = self.settings.lr / len(rows), self.settings.decay
        r = self._hard(x, y) - told.to(x.dtype)
        of_labels = r + decay * self.u[y]
        self.w -= lr * (r @ x + decay * self.w)
        self.u.index_add_(0, y, of_labels, alpha=-lr)

    def _hard(self, x: Tensor, y: Tensor) -> Tensor:
        return (x @ self.w + self.u[y]).sigmoid()
