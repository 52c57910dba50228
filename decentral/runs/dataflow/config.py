"""A run of a network of nodes as one typed, frozen value; its file has ``[dataflow]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from decentral.dataflow.models import NODE_MODELS
from decentral.errors import UserError
from decentral.optimizers.of_run import Facts
from decentral.optimizers.rule import Rule, refuse_evaluating, refuse_to_rescale
from decentral.optimizers.schedules import Schedule
from decentral.problems.capabilities import Measured, Trainable
from decentral.runs.kind import OF_ALL, OF_STALENESS, Columns, Named, Run, Table, choices_of, name_of
from decentral.runs.sections.dataflow import Dataflow
from decentral.runs.sections.names import OPTIMIZERS, PROBLEMS, SCHEDULES
from decentral.runs.sections.network import WITHOUT_CLUSTER, Network
from decentral.runs.sections.train import Train
from decentral.tables import section


@dataclass(frozen=True)
class DataflowRun(Run):
    """A network of nodes: a round is a pass over the training instances."""

    there: ClassVar[str] = "[dataflow]"

    dataflow: Dataflow
    train: Train
    network: Network
    problem: Annotated[Any, Named(PROBLEMS)]
    optimizer: Annotated[Rule, Named(OPTIMIZERS, "sgd")]
    schedule: Annotated[Schedule, Named(SCHEDULES, "constant")]

    def columns(self, ranks: int) -> Columns:
        """See :class:`Run`."""
        problem, train = self.problem, self.train
        found = [*OF_ALL, "epoch", "samples", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
        if isinstance(problem, Measured):
            found = [*OF_ALL, *problem.columns(self.workers, train.weight_decay)]
        found += ["batch_loss", "batch_accuracy", "instances_per_s"]
        if self.dataflow.runtime == "messages":
            found += ["occupancy", "updates", *OF_STALENESS, *(["simulated_s"] if ranks == 1 else [])]
        return Columns(tuple(found))

    @classmethod
    def is_meant(cls, table: Table) -> bool:
        """By its section."""
        return "dataflow" in table

    @classmethod
    def without(cls, table: Table) -> Mapping[str, str]:
        """Batches are for problems whose samples are dealt in them, as in rounds of workers; instances are others'."""
        of_workers = ["train.oracle", "train.chunk", "train.compile", "train.checkpoint_every"]
        problem = choices_of(PROBLEMS).get(str(section(table, "problem").get("name", "")))
        if problem is None or not issubclass(problem, Trainable):
            of_workers.append("train.batch_size")
        return {
            **dict.fromkeys(of_workers, "with [dataflow]; remove the key"),
            "train.clip_norm": "with [dataflow], whose nodes have parts of the gradient; use dataflow.clip",
            **dict.fromkeys(
                WITHOUT_CLUSTER, "with [dataflow], whose messages have one kind of link; remove the key"
            ),
        }

    def facts(self) -> Facts:
        """See :class:`Run`; a round is an epoch, and a batch is what makes an update."""
        flow, whole = self.dataflow, super().facts()
        messages = flow.runtime == "messages"
        if messages and (flow.unit != "instances" or flow.frequencies):
            missing = 'updates counted in messages are of no batch: set dataflow.unit = "instances"'
            return whole._replace(batch=None, epoch_rounds=None, missing=missing)
        instances = flow.min_update_frequency if messages else flow.minibatch
        batch = instances * (whole.batch or 1)  # an instance has one sample, where it has no batch of them
        return whole._replace(batch=batch, epoch_rounds=Fraction(1), missing="")

    def fits(self) -> None:
        """The problem has a network of nodes."""
        refuse_evaluating(self.optimizer, "a node has a part of the model and no loss of its own")
        if (name := name_of(self.problem, PROBLEMS)) not in NODE_MODELS:
            raise UserError(
                f"problem.name = {name!r} has no network of nodes; use one of {', '.join(NODE_MODELS)}"
            )
        refuse_to_rescale(self.optimizer, "networks of nodes have none")
        if self.optimizer.joint or self.optimizer.hears:
            raise UserError(
                f"optimizer.name = {name_of(self.optimizer, OPTIMIZERS)!r} needs all layers and the loss of a batch in "
                "one place, and a node has a part of them; use a rule of each layer such as lamb, or remove [dataflow]"
            )
