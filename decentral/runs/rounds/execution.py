"""Who trains a run of rounds: in phases where its file has some, or with attackers or actors beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decentral.runs.journal import Journal, Outcome
from decentral.runs.place import Here
from decentral.runs.rounds.company import Company
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.rounds.pairs import Pairs
from decentral.runs.rounds.phases import PhasedTraining
from decentral.runs.rounds.refusals import check
from decentral.runs.rounds.training import Training
from decentral.runs.sections.actors import hosting_ranks

__all__ = ["check", "execute"]


def execute(run: RoundsRun, here: Here, journal: Journal, kept: Mapping[str, Any] | None) -> Outcome:
    """All rounds, or those after the checkpoint ``kept``. Every rank calls it."""
    if run.phases is not None:
        return PhasedTraining(run, here, journal, kept).run()
    company = _company(run, here)
    if company is None:
        return Training(run, here, journal, kept).run()
    return company.train(
        lambda world: Training(run, here._replace(world=world), journal, kept, company).run()
    )


def _company(run: RoundsRun, here: Here) -> Company | None:
    """Where ranks of workers have others beside them."""
    ranks = here.world.ranks
    if hosting_ranks(run.problem, run.workers, ranks) < ranks:
        from decentral.runs.rounds.crew import Crew  # here: it imports all of a problem that few runs have

        return Crew(run, here)
    return Pairs.of(run, here)
