"""Measuring recommenders: root mean square errors over ratings, and not means of those of batches or users."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.problems.evaluation import Evaluation

if TYPE_CHECKING:
    from decentral.comm import Communicator
    from decentral.problems.data.dataset import Dataset

OF_RATINGS = (
    "epoch", "samples", "train_loss", "test_loss", "test_rmse", "test_rmse_worker_mean", "test_rmse_worker_max",
)  # fmt: skip
"""Columns of recommenders; where the noise is known also FLOOR."""
FLOOR = "test_rmse_floor"


class RatingEvaluation(Evaluation):
    """Of the averaged model and of the workers' own, over the ratings of as many users as Evaluation takes samples.

        train_loss = (1/n) sum_i (sum of worker i's squared errors / its ratings),    test_loss = test_rmse^2
        test_rmse = sqrt(sum over all users' test ratings of squared errors / their number)

    A model is given a user's training ratings, and its outputs for the test ratings are judged.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.floor: float | None = given[2].floor

    @staticmethod
    def shares(dataset: Dataset, shard: NDArray[np.int64]) -> NDArray[np.float64]:
        """See :class:`Evaluation`: of each rating of a user."""
        ratings = int((~dataset.train_y[shard].isnan()).sum())
        return np.full(len(shard), 1 / ratings)

    def _measured(
        self, mean: Tensor, x: Tensor, buffers: dict[str, Tensor], comm: Communicator, last: bool
    ) -> dict[str, float]:
        del buffers  # the model has none
        own = [
            _root(*self._errors(worker, row, *self.some_test))
            for worker, row in zip(self.place.rows, x, strict=True)
        ]
        values = dict.fromkeys(("train_loss", "test_loss", "test_rmse"), float("nan"))
        if comm.rank == 0:
            squares, rated = self._errors("train", mean[0], self.train_x, self.train_y)
            values["train_loss"] = float((squares @ self.weights) / (rated @ self.weights))
            seen = slice(None) if last else self.some
            values["test_rmse"] = _root(*self._errors("test", mean[0], self.test_x[seen], self.test_y[seen]))
            values["test_loss"] = values["test_rmse"] ** 2
        of_workers = comm.observe(np.array(own))
        values["test_rmse_worker_mean"] = float(of_workers.mean())
        values["test_rmse_worker_max"] = float(of_workers.max())
        return values if self.floor is None else values | {FLOOR: self.floor}

    def _errors(
        self, whose: str | int, row: Tensor, inputs: Tensor, ratings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(N,) of each user, float64: the sum of squared errors of the model (d,), and how many ratings there are."""

        def judge(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            rated = ~y.isnan()
            squares = torch.where(rated, outputs.double() - y, 0.0).square()
            return squares.sum(1), rated.sum(1).double()

        squares, rated = zip(*self.each(judge, whose, row, {}, inputs, ratings), strict=True)
        return torch.cat(squares), torch.cat(rated)


def _root(squares: Tensor, rated: Tensor) -> float:
    return math.sqrt(float(squares.sum()) / float(rated.sum()))
