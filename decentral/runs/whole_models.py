"""What the kinds of run have in common whose workers each train a whole model, on their own share of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.problems.capabilities import Measured, Trainable
from decentral.runs.kind import OF_ALL, Run, name_of
from decentral.runs.sections.names import PROBLEMS

if TYPE_CHECKING:
    from decentral.runs.sections.topology import Topology


@dataclass(frozen=True)
class WholeModels(Run):
    """n workers of a topology, and a problem that they can train."""

    if TYPE_CHECKING:  # as in Run

        @property
        def topology(self) -> Topology:
            """Who talks to whom."""

    @property
    def workers(self) -> int:
        """See :class:`Run`."""
        return self.topology.workers

    def measured(self) -> tuple[str, ...] | None:
        """Columns of all kinds, and of the problem; None of one that does not tell its own."""
        problem = self.problem
        if not isinstance(problem, Measured):
            return None
        return (*OF_ALL, *problem.columns(self.workers, self.train.weight_decay))

    def fits(self) -> None:
        """The problem trains workers, and can be trained so."""
        problem = self.problem
        if not isinstance(problem, Trainable):
            name = name_of(problem, PROBLEMS)
            raise UserError(f"problem.name = {name!r} is trained as a network of nodes only; add [dataflow]")
        try:
            problem.check(self.train.batch_size, self.train.weight_decay)
        except ValueError as error:
            raise UserError(str(error)) from error
