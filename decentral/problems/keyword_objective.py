"""A frame network's objective: cross-entropy of frames or the end metric, and the detector's errors on test data."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from decentral.problems.data.speech import HOP_S
from decentral.problems.detection import Errors
from decentral.problems.model_objective import ModelObjective
from decentral.problems.oracles import Batches, Blocks

if TYPE_CHECKING:
    from decentral.comm import Communicator
    from decentral.problems.capabilities import Made
    from decentral.problems.detection import Detector
    from decentral.problems.losses import Loss
    from decentral.problems.objective import Place

CURVE = "detection.csv"


class KeywordObjective(ModelObjective):
    """Mean ``loss`` of windows, with the false rejects of ``detector`` at ``alarms`` false alarms an hour.

    ``first``: the same with cross-entropy, for the first ``first_rounds``; None where there are none.
    """

    def __init__(
        self, made: Made, place: Place, loss: Loss, detector: Detector, first_rounds: int, alarms: float
    ) -> None:
        super().__init__(*made, place, loss=loss)
        self.detector, self.first_rounds, self.alarms = detector, first_rounds, alarms
        self.first: ModelObjective | None = None
        if first_rounds:
            # a module of its own, whose parameters and gradients no other oracle binds
            self.first = ModelObjective(copy.deepcopy(made.module), made.dataset, made.shards, place)
        hours = _hours(self.evaluation.test_y[~detector.said(self.evaluation.test_y)])
        if alarms * hours < 1:
            self.notes.append(
                f"the test part has {hours:.3g} hours without the keyword: false_reject_rate is at no false alarm"
            )
        self._curve = ""

    def gradient_of(self, x: Tensor, inputs: Batches, labels: Batches, t: int) -> Blocks:
        """See :class:`ModelObjective`; of cross-entropy in the first rounds."""
        if self.first is None or t >= self.first_rounds:
            return super().gradient_of(x, inputs, labels, t)
        blocks = self.first.gradient_of(x, inputs, labels, t)
        self.losses = self.first.losses
        return blocks

    def alone(self, row: int) -> KeywordObjective:
        """See :class:`decentral.problems.objective.Objective`."""
        one: Any = super().alone(row)
        if self.first is not None:
            one.first = self.first.alone(row)
        return one  # type: ignore[no-any-return]

    def redrawn(self, batch_size: int, of_all: bool) -> KeywordObjective:
        """See :class:`decentral.problems.objective.Objective`."""
        one: Any = super().redrawn(batch_size, of_all)
        one.first = copy.copy(self.first)
        return one  # type: ignore[no-any-return]

    def evaluate(self, mean: Tensor, x: Tensor, comm: Communicator, last: bool) -> dict[str, float]:
        """With the false rejects of the averaged model; on rank 0, and NaN elsewhere."""
        values = super().evaluate(mean, x, comm, last)
        values |= dict.fromkeys(ERRORS, float("nan"))
        if comm.rank == 0:
            errors = self._errors(mean[0], slice(None) if last else self.evaluation.some)
            values |= dict(zip(ERRORS, (errors.rejects_at(self.alarms), errors.equal()), strict=True))
            self._curve = _text_of(errors)
        return values

    def files(self) -> Mapping[str, str]:
        """See :class:`decentral.problems.capabilities.Leaving`: the curve of the last record, on rank 0."""
        return {CURVE: self._curve} if self._curve else {}

    @torch.no_grad()
    def _errors(self, row: Tensor, some: slice) -> Errors:
        evaluation, detector = self.evaluation, self.detector
        inputs, labels = evaluation.test_x[some], evaluation.test_y[some]
        scores = torch.cat(
            evaluation.each(lambda logits, _: detector.scores(logits), "test", row, {}, inputs, labels)
        )
        said = detector.said(labels)
        of_said, of_other = (scores[some].double().cpu().numpy() for some in (said, ~said))
        return Errors(of_said, of_other, _hours(labels[~said]))


def _hours(labels: Tensor) -> float:
    """Of windows with labels (N, T)."""
    return labels.numel() * HOP_S / 3600


ERRORS = ("false_reject_rate", "equal_error_rate")
"""Columns of a detector."""


def _text_of(errors: Errors) -> str:
    """The curve as CSV, without the points between two at which equally many are rejected."""
    alarms, rejected = errors.curve
    ends = np.flatnonzero(np.append(True, rejected[1:] != rejected[:-1]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("false_alarms_per_hour", "false_reject_rate"))
    writer.writerows(zip(alarms[ends].tolist(), rejected[ends].tolist(), strict=True))
    return text.getvalue()
