"""What is left of the last record of a run, beside its row: files of the objective, and the averaged model."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from torch import Tensor

from decentral.problems.capabilities import Leaving
from decentral.problems.model_objective import ModelObjective
from decentral.problems.objective import Objective
from decentral.problems.of_module import OfModule
from decentral.runs import sealed
from decentral.runs.journal import Journal

MODEL = "model.pt"


def leave_findings(journal: Journal, problem: Any, objective: Objective) -> None:
    """For the end of a run, on every rank; only where its problem leaves something, and rank 0 has it."""
    if isinstance(objective, Leaving):
        for name, text in objective.files().items():
            journal.leave(name, text)
    if isinstance(problem, OfModule) and problem.keeps_model and isinstance(objective, ModelObjective):
        _leave_model(journal, objective)


def _leave_model(journal: Journal, objective: ModelObjective) -> None:
    """Parameters and buffers by name, as they were judged in the last record, for those who go on with them."""
    if (last := objective.evaluation.last) is None:
        return
    row, buffers = last
    state = {name: value.cpu() for name, value in {**objective.layout.views(row), **buffers}.items()}
    journal.leave(MODEL, functools.partial(sealed.save, state))


def kept_model(run: Path) -> dict[str, Tensor]:
    """The averaged model of the run in that folder. Raises UserError where it is damaged."""
    return sealed.load(run / MODEL)
