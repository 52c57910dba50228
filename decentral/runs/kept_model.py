"""The averaged model of a run that has ended, for those who go on with it: model.pt beside the records."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from torch import Tensor

from decentral.problems.model_objective import ModelObjective
from decentral.problems.objective import Objective
from decentral.problems.of_module import OfModule
from decentral.runs import sealed
from decentral.runs.journal import Journal

NAME = "model.pt"


def leave_model(journal: Journal, problem: Any, objective: Objective) -> None:
    """Where the problem's runs do so: parameters and buffers by name, as they were judged in the last record."""
    if not isinstance(problem, OfModule) or not problem.keeps_model:
        return
    if not isinstance(objective, ModelObjective) or (last := objective.evaluation.last) is None:
        return
    row, buffers = last
    state = {name: value.cpu() for name, value in {**objective.layout.views(row), **buffers}.items()}
    journal.leave(NAME, functools.partial(sealed.save, state))


def kept_model(run: Path) -> dict[str, Tensor]:
    """What :func:`leave_model` has left in the folder of a run. Raises UserError where that is damaged."""
    return sealed.load(run / NAME)
