"""A layer-parallel run as one typed, frozen value; its file has ``[stages]`` and ``[program]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from decentral.algorithms.traits import Method
from decentral.errors import UserError
from decentral.optimizers.rule import Rule, refuse_evaluating
from decentral.optimizers.schedules import Schedule
from decentral.problems.capabilities import Layered, Measured
from decentral.problems.language_settings import Language
from decentral.runs.kind import OF_ALL, OF_STALENESS, Columns, Named, Run, Table, name_of
from decentral.runs.sections.names import METHODS, OPTIMIZERS, PROBLEMS, SCHEDULES
from decentral.runs.sections.network import WITHOUT_CLUSTER, Network
from decentral.runs.sections.stages import Stages
from decentral.runs.sections.topology import Topology
from decentral.runs.sections.train import Train
from decentral.stages.program import StageProgram
from decentral.tables import section
from topologies.wording import shown

_LAYERS = 128  # more cosines than anyone draws
PROGRAMS = "decentral.stages.programs:PROGRAMS"


@dataclass(frozen=True)
class StageRun(Run):
    """Layers in parallel: a round is a step of each stage.

    ``topology``, ``algorithm``: of the workers, each of which has all stages; None where there is one. ``optimizer``:
    None where the algorithm is given the gradient itself.
    """

    there: ClassVar[str] = "[stages]"

    stages: Stages
    train: Train
    network: Network
    topology: Topology | None
    problem: Annotated[Any, Named(PROBLEMS)]
    program: Annotated[StageProgram, Named(PROGRAMS)]
    algorithm: Annotated[Method[Any] | None, Named(METHODS)]
    optimizer: Annotated[Rule | None, Named(OPTIMIZERS, "sgd")]
    schedule: Annotated[Schedule, Named(SCHEDULES, "constant")]

    def columns(self, ranks: int) -> Columns | None:
        """See :class:`Run`; of which layers there are cosines is known when the network is."""
        if not isinstance(self.problem, Measured):
            return None
        found = [*OF_ALL, *self.problem.columns(self.workers, self.train.weight_decay)]
        found += ["batch_loss", "flops", "critical_flops", "gradient_cosine"]
        found += [f"gradient_cosine_{layer}" for layer in range(_LAYERS)]
        final = [
            "flops_step",
            "critical_flops_step",
            "activation_bytes_max",
            "activation_bytes_sum",
            *OF_STALENESS,
        ]
        final += ["spectral_gap"] if self.topology is not None else []
        return Columns((*found, *(["simulated_s"] if ranks == 1 else [])), tuple(final))

    @classmethod
    def is_meant(cls, table: Table) -> bool:
        """By either of its sections."""
        return "stages" in table or "program" in table

    @classmethod
    def completed(cls, table: Table) -> Table:
        """SGD, where there is no algorithm. Raises UserError for one of two sections that go together."""
        gossips = "algorithm" in table
        if gossips is not ("topology" in table):
            there, missing = ("algorithm", "topology") if gossips else ("topology", "algorithm")
            raise UserError(
                f"section [{there}] needs [{missing}] where there is [stages]; add it, or remove both"
            )
        return table if gossips else {**table, "optimizer": section(table, "optimizer")}

    @classmethod
    def without(cls, table: Table) -> Mapping[str, str]:
        """See :class:`Run`."""
        del table
        of_rounds = ("train.oracle", "train.chunk", "train.compile", "train.checkpoint_every")
        return {
            **dict.fromkeys(of_rounds, "with [stages]; remove the key"),
            **dict.fromkeys(
                WITHOUT_CLUSTER, "with [stages], whose messages have one kind of link; remove the key"
            ),
        }

    @property
    def workers(self) -> int:
        """See :class:`Run`."""
        return 1 if self.topology is None else self.topology.workers

    def fits(self) -> None:
        """The problem has layers; workers have stretches of a text; the program can gossip; a norm is of all."""
        problem, gossips = self.problem, self.topology is not None
        refuse_evaluating(self.optimizer, "a stage has a part of the model and no loss of its own")
        if self.train.clip_norm and self.stages.count > 1:
            raise UserError(
                f"train.clip_norm = {self.train.clip_norm} is for the norm of a worker's whole gradient, and a stage "
                "has a part of it and does not wait for the others; use stages.count = 1, or remove the key"
            )
        self._fits_rule()
        if not isinstance(problem, Layered):
            name = name_of(problem, PROBLEMS)
            raise UserError(f"problem.name = {name!r} has no layers to cut into stages; use mlp, for example")
        if gossips and isinstance(problem, Language) and problem.partition != "contiguous":
            raise UserError(
                f"problem.partition = {shown(problem.partition)}: workers with stages have stretches of a text; "
                "use contiguous"
            )
        if gossips and not self.program.lockstep:
            name = name_of(self.program, PROGRAMS)
            raise UserError(
                f"program.name = {name!r} updates its stages at their own speeds, so they cannot gossip; use local, or "
                "remove [topology] and [algorithm]"
            )

    def _fits_rule(self) -> None:
        """A rule of the whole model has it, and the loss that it is told is there."""
        rule = self.optimizer
        if rule is None or not (rule.joint or rule.hears):
            return
        name = name_of(rule, OPTIMIZERS)
        if self.stages.count > 1:
            raise UserError(
                f"optimizer.name = {name!r} needs all layers and the loss of a batch in one place, and a stage has a "
                "part and does not wait for the others; use stages.count = 1, or a rule of each layer such as lamb"
            )
        if rule.hears and not self.program.of_one_loss:
            program = name_of(self.program, PROGRAMS)
            raise UserError(
                f"optimizer.name = {name!r} is told the loss that an update is for, and those of program.name = "
                f"{program!r} are for others than the network's own; use backprop, or another rule such as adam"
            )
