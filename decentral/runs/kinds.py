"""The kinds of run: a folder and a line each. A file is of the first kind that its table means."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from decentral.errors import UserError
from decentral.runs.assisted.config import AssistedRun
from decentral.runs.asynchronous.config import AsynchronousRun
from decentral.runs.dataflow.config import DataflowRun
from decentral.runs.kind import Run, Table, sections_of
from decentral.runs.reading import read
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.stages.config import StageRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from decentral.comm.world import World
    from decentral.runs.journal import Journal, Outcome
    from decentral.runs.place import Here


class Training(Protocol):
    """The module that trains the runs of a kind."""

    def check(self, run: Any, world: World) -> None:
        """Refuse what only a trial shows: graph, cut, ranks; UserError."""

    def execute(self, run: Any, here: Here, journal: Journal, kept: Mapping[str, Any] | None) -> Outcome:
        """All rounds that are left after the checkpoint ``kept``. Every rank calls it."""


class Kind(NamedTuple):
    """``run``: what its files say; ``training``: the module that does it, which imports torch."""

    run: type[Run]
    training: str


KINDS = (
    Kind(DataflowRun, "decentral.runs.dataflow.training"),
    Kind(StageRun, "decentral.runs.stages.training"),
    Kind(AssistedRun, "decentral.runs.assisted.training"),
    Kind(AsynchronousRun, "decentral.runs.asynchronous.training"),
    Kind(RoundsRun, "decentral.runs.rounds.execution"),  # by no section of its own, so the last
)
# in run ids these stand last, in this order, so that folders of older runs are found again
_LAST = ("stages", "program", "optimizer", "dataflow", "assistant")
SECTIONS = tuple(
    sorted(
        dict.fromkeys(key for kind in reversed(KINDS) for key in sections_of(kind.run)),
        key=lambda key: _LAST.index(key) if key in _LAST else -1,
    )
)
"""All sections that a file of some kind may have, in the order that they have in run ids."""


def run_of(table: Table) -> Run:
    """The run of a resolved table: one seed, no sweep. Raises UserError for a mistake."""
    kind = next(kind.run for kind in KINDS if kind.run.is_meant(table))
    known = sections_of(kind)
    for key in table:
        if key in SECTIONS and key not in known:
            why = kind.without(table).get(key, f"where there is {kind.there}; remove it")
            raise UserError(f"section [{key}] has no meaning {why}")
    return read(kind, table)


def training_of(run: Run) -> Training:
    """The module that trains such a run."""
    name = next(kind.training for kind in KINDS if kind.run is type(run))
    return importlib.import_module(name)
