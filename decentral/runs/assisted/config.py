"""A run of a Boss and its Assistant as one typed, frozen value; its file has ``[assistant]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from decentral.errors import UserError
from decentral.optimizers.inverse import Inverse
from decentral.optimizers.rule import Rule, refuse_evaluating, refuse_to_rescale
from decentral.optimizers.schedules import Schedule
from decentral.problems.assistants import Assistant
from decentral.problems.capabilities import Measured
from decentral.problems.classification import Classification
from decentral.runs.kind import OF_ALL, OF_STALENESS, Columns, Named, Run, Table, name_of
from decentral.runs.sections.names import OPTIMIZERS, PROBLEMS, SCHEDULES
from decentral.runs.sections.network import Flops, Network
from decentral.runs.sections.train import Train

ASSISTANTS = "decentral.problems.assistants:ASSISTANTS"


@dataclass(frozen=True)
class AssistedRun(Run):
    """One model, and two programs: a round is a step of the Boss, on a batch that the Assistant let through."""

    there: ClassVar[str] = "[assistant]"

    problem: Annotated[Any, Named(PROBLEMS)]
    network: Network
    train: Train
    schedule: Annotated[Schedule, Named(SCHEDULES, "constant")]
    optimizer: Annotated[Rule, Named(OPTIMIZERS, "sgd")]
    assistant: Annotated[Assistant, Named(ASSISTANTS, "logistic")]

    def columns(self, ranks: int) -> Columns | None:
        """See :class:`Run`."""
        if not isinstance(self.problem, Measured):
            return None
        found = [*OF_ALL, *self.problem.columns(1, self.train.weight_decay), "scanned", "flops"]
        found += ["assistant_steps", "batch_loss", *OF_STALENESS, *(["simulated_s"] if ranks == 1 else [])]
        return Columns(tuple(found))

    @classmethod
    def is_meant(cls, table: Table) -> bool:
        """By its section."""
        return "assistant" in table

    @classmethod
    def without(cls, table: Table) -> Mapping[str, str]:
        """See :class:`Run`."""
        del table
        of_rounds = ("train.oracle", "train.chunk", "train.compile", "train.checkpoint_every")
        of_cluster = [f"network.{key}" for key in ("cluster", "ports", "hosts", "overlap", "all_reduce")]
        return {
            **dict.fromkeys(of_rounds, "with [assistant]; remove the key"),
            **dict.fromkeys(of_cluster, "with [assistant], whose messages have one link; remove the key"),
            **dict.fromkeys(
                ("topology", "algorithm"),
                "with [assistant], where one Boss trains; remove the section, or [assistant]",
            ),
        }

    def fits(self) -> None:
        """Samples with a label each, in batches of a size; times by FLOPs; a schedule that can be paced so."""
        problem, train = self.problem, self.train
        refuse_to_rescale(self.optimizer, "a Boss leaves its own as they are")
        refuse_evaluating(self.optimizer, "a Boss has batches that are chosen for it alone")
        if not isinstance(problem, Classification):
            name = name_of(problem, PROBLEMS)
            raise UserError(
                f"problem.name = {name!r} has no samples with a label each, which an Assistant judges; use "
                "logistic-regression, linear-svm or resnet, for example, or remove [assistant]"
            )
        if train.batch_size == "full":
            raise UserError(
                'train.batch_size = "full" leaves an Assistant nothing to choose; set a number, 32 for example'
            )
        if not isinstance(self.network.compute, Flops):
            raise UserError(
                f"network.compute.name = {self.network.compute_name!r} tells how long gradients take, and nothing of "
                'an Assistant; use "flops"'
            )
        if self.assistant.pace == "scanned" and not isinstance(self.schedule, Inverse):
            name = name_of(self.schedule, SCHEDULES)
            raise UserError(
                'assistant.pace = "scanned" counts past train.rounds, where schedule.name = '
                f'{name!r} has ended; use schedule.name = "inverse", or pace = "steps"'
            )
        try:
            problem.check(train.batch_size, train.weight_decay)
        except ValueError as error:
            raise UserError(str(error)) from error
