"""A run without rounds as one typed, frozen value: the method is an asynchronous one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from decentral.algorithms.asynchronous import ASYNCHRONOUS
from decentral.algorithms.asynchronous.side import AsynchronousMethod
from decentral.optimizers.rule import Rule, refuse_evaluating
from decentral.optimizers.schedules import Schedule
from decentral.runs.kind import OF_STALENESS, Columns, Key, Named, Table
from decentral.runs.sections.names import ALL_METHODS, OPTIMIZERS, PROBLEMS, SCHEDULES
from decentral.runs.sections.network import Network
from decentral.runs.sections.topology import Topology
from decentral.runs.sections.train import Train
from decentral.runs.whole_models import WholeModels


@dataclass(frozen=True)
class AsynchronousRun(WholeModels):
    """n workers, each at its own speed: ``train.rounds`` n steps in all, whoever makes them.

    ``optimizer``: None where the method is given the gradient itself.
    """

    there: ClassVar[str] = "an asynchronous method"

    problem: Annotated[Any, Named(PROBLEMS)]
    topology: Topology
    algorithm: Annotated[AsynchronousMethod, Named(ALL_METHODS)]
    allow_unstable: Annotated[bool, Key("algorithm", False)]
    network: Network
    train: Train
    schedule: Annotated[Schedule, Named(SCHEDULES, "constant")]
    optimizer: Annotated[Rule | None, Named(OPTIMIZERS, "sgd")]

    def columns(self, ranks: int) -> Columns | None:
        """See :class:`Run`."""
        if (measured := self.measured()) is None:
            return None
        return Columns((*measured, *(("simulated_s",) if ranks == 1 else ()), *OF_STALENESS), ("answered",))

    def fits(self) -> None:
        """See :class:`WholeModels`; a step is one gradient."""
        super().fits()
        refuse_evaluating(
            self.optimizer, "a worker without rounds answers its neighbours after each gradient"
        )

    @classmethod
    def is_meant(cls, table: Table) -> bool:
        """By the shelf that the method is on."""
        algorithm = table.get("algorithm")
        return isinstance(algorithm, Mapping) and str(algorithm.get("name")) in ASYNCHRONOUS

    @classmethod
    def without(cls, table: Table) -> Mapping[str, str]:
        """See :class:`Run`."""
        name = ASYNCHRONOUS[table["algorithm"]["name"]].__name__
        return {
            "faults": f"for {name}, which has no rounds; remove the section (a slow worker is network.compute.name = "
            '"one-slow-worker")',
            "compression": f"for {name}, whose messages have meanings of their own; remove the section",
            "train.chunk": f"for {name}, whose workers are not in step; remove the key",
        }
