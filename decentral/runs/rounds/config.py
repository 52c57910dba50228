"""A run of rounds as one typed, frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from decentral.algorithms.traits import Method
from decentral.errors import UserError
from decentral.optimizers.rule import Rule
from decentral.optimizers.schedules import Schedule
from decentral.problems.capabilities import Trainable
from decentral.runs.kind import Key, Named, Run, Table, name_of
from decentral.runs.sections.compression import Compression
from decentral.runs.sections.faults import Faults
from decentral.runs.sections.network import Network
from decentral.runs.sections.topology import Topology
from decentral.runs.sections.train import Train

PROBLEMS = "decentral.problems:PROBLEMS"
METHODS = "decentral.algorithms:ALGORITHMS decentral.algorithms.asynchronous:ASYNCHRONOUS"
SCHEDULES = "decentral.optimizers:SCHEDULES"
OPTIMIZERS = "decentral.optimizers:OPTIMIZERS"


@dataclass(frozen=True)
class RoundsRun(Run):
    """n workers in step: a round is a gradient of each, and a step of the method. What no other kind is meant by.

    ``optimizer``: None where the method is given the gradient itself.
    """

    there: ClassVar[str] = "no [stages]"

    problem: Annotated[Any, Named(PROBLEMS)]
    topology: Topology
    algorithm: Annotated[Method[Any], Named(METHODS)]
    allow_unstable: Annotated[bool, Key("algorithm", False)]
    compression: Compression | None
    network: Network
    faults: Faults | None
    train: Train
    schedule: Annotated[Schedule, Named(SCHEDULES, "constant")]
    optimizer: Annotated[Rule | None, Named(OPTIMIZERS, "sgd")]

    @classmethod
    def is_meant(cls, table: Table) -> bool:
        """See :class:`Run`."""
        del table
        return True

    @property
    def workers(self) -> int:
        """See :class:`Run`."""
        return self.topology.workers

    def fits(self) -> None:
        """The problem trains workers, and can be trained so."""
        check_problem(self)


def check_problem(run: Run) -> None:
    """Refuse a problem that workers cannot train as this run wants."""
    problem = run.problem
    if not isinstance(problem, Trainable):
        name = name_of(problem, PROBLEMS)
        raise UserError(f"problem.name = {name!r} is trained as a network of nodes only; add [dataflow]")
    try:
        problem.check(run.train.batch_size, run.train.weight_decay)
    except ValueError as error:
        raise UserError(str(error)) from error
