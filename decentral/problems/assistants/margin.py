"""The Assistant of a linear support vector machine: it has the Boss's model, and looks whose margin is violated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decentral.problems.assistants.assistant import Assistant, Batch
from decentral.problems.linear_svm import LinearSVM

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.problems.capabilities import Problem


@dataclass(frozen=True)
class Margin(Assistant):
    """The norm of a sample's gradient, for a linear SVM of two classes: a copy of the Boss's w, k samples looked at.

        p_i = max(base, |x_i| 1[s_i w.x_i < 1] - epsilon / (k + 1)),    at most 1;  s_i = -1 or 1

    It learns nothing of its own: a report is w, d numbers. With train.batch_size = 1, schedule "inverse" and ``pace`` =
    "scanned" the run is Pegasos with the shrinking of arXiv:1905.03381, whose code counts k so.
    """

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon < 0:
            raise ValueError(f"epsilon = {self.epsilon} must not be negative; 0 is none")

    def check(self, problem: Problem) -> None:
        """See :class:`Assistant`."""
        if not isinstance(problem, LinearSVM):
            raise ValueError('assistant.name = "margin" is for problem.name = "linear-svm"; use "logistic"')
        if problem.read().classes != 2:
            raise ValueError(
                f'assistant.name = "margin" is for two classes, and {problem.data} has {problem.read().classes}; use '
                '"logistic", or a9a'
            )

    def chooser(self, x: Tensor, y: Tensor, classes: int, seed: int) -> Violated:
        """See :class:`Assistant`."""
        del classes, seed
        return Violated(self, x, y)

    def tell(self, batch: Batch) -> Tensor:
        """w (features,)."""
        return batch.x[0]


class Violated:
    """See :class:`Margin`; ``w`` begins where the Boss's does, at 0."""

    def __init__(self, settings: Margin, x: Tensor, y: Tensor) -> None:
        self.settings, self.x = settings, x
        self.sign = (2 * y - 1).to(x.dtype)
        self.norm = x.norm(dim=1)
        self.w = x.new_zeros(x.shape[1])
        self.scan_flops, self.learn_flops = 2.0 * x.shape[1], 0.0

    def keep(self, rows: Tensor, k: Tensor) -> Tensor:
        """See :class:`Chooser`."""
        violated = self.sign[rows] * (self.x.index_select(0, rows) @ self.w) < 1
        norm = self.norm[rows] * violated - self.settings.epsilon / (k + 1)
        kept: Tensor = norm.clamp(self.settings.base, 1.0)
        return kept

    def learn(self, rows: Tensor, told: Tensor) -> None:
        """See :class:`Chooser`."""
        del rows
        self.w = told
