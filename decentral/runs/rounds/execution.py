"""Who trains a run of rounds: in phases where its file has some, or with attackers beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decentral.runs.journal import Journal, Outcome
from decentral.runs.place import Here
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.rounds.pairs import Pairs
from decentral.runs.rounds.phases import PhasedTraining
from decentral.runs.rounds.refusals import check
from decentral.runs.rounds.training import Training

__all__ = ["check", "execute"]


def execute(run: RoundsRun, here: Here, journal: Journal, kept: Mapping[str, Any] | None) -> Outcome:
    """All rounds, or those after the checkpoint ``kept``. Every rank calls it."""
    if run.phases is not None:
        return PhasedTraining(run, here, journal, kept).run()
    if (pairs := Pairs.of(run, here)) is None:
        return Training(run, here, journal, kept).run()
    return pairs.train(lambda world: Training(run, here._replace(world=world), journal, kept, pairs).run())
