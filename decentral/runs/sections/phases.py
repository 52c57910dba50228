"""``[phases]``: a run of rounds, its workers then alone, and their average (SWAP, arXiv 2001.02312)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from decentral.algorithms.traits import traits_of
from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS
from decentral.optimizers.decays import DECAYS
from decentral.optimizers.rule import Rule
from decentral.optimizers.schedules import Schedule
from decentral.optimizers.sgd import SGD
from decentral.problems.capabilities import Layered, Measured
from decentral.runs.kind import name_of
from decentral.runs.sections.names import OPTIMIZERS as RULES
from decentral.runs.sections.names import SCHEDULES as NAMES
from decentral.runs.sections.train import MOST_ROUNDS
from decentral.tables import fields_of, from_table, named
from topologies.wording import shown

REPLICAS = "phases.replicas"


@dataclass(frozen=True)
class Replicas:
    """``[phases.replicas]``: the second phase, in which each worker goes on alone.

    ``rounds``, ``lr``, ``batch_size`` (per worker): as in ``[train]``, whose other keys hold here too. ``data``: of
    whose samples its batches are, of "all" training samples, in an order of each worker's own, or of its "own".
    ``schedule``: a table as ``[schedule]``, over these rounds; by default lr is constant. ``optimizer``: a table as
    ``[optimizer]``; by default that of the run, or else SGD with the momentum of ``[algorithm]``, if it has one.
    """

    rounds: int
    batch_size: int
    lr: float
    data: Literal["all", "own"] = "all"
    schedule: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for key in ("rounds", "batch_size", "lr"):
            value = getattr(self, key)
            if not 0 < value < float("inf"):
                raise UserError(f"{REPLICAS}.{key} = {shown(value)} must be positive and finite")
        if self.rounds > MOST_ROUNDS:
            raise UserError(
                f"{REPLICAS}.rounds = {shown(self.rounds)} would last for years; use {MOST_ROUNDS:,} at the most"
            )


@dataclass(frozen=True)
class Phases:
    """``[phases]`` in TOML: SWAP, stochastic weight averaging in parallel (arXiv 2001.02312), over any method.

    1. The run as it is without the section, until a record finds a training accuracy of at least
       ``until_train_accuracy`` (of the averaged model, as the column has it), and for ``train.rounds`` at the most.
    2. ``replicas``: every worker alone from where it is, or with ``average_first`` from the average, which is one
       all-reduce more. The states of method and rule begin anew, and nothing is sent.
    3. One round more: the average of the workers' weights, by an all-reduce, and batch norm's statistics of it, by a
       pass over all training samples in batches of ``replicas.batch_size``, the same on each worker.
    """

    replicas: Replicas
    schedule: Schedule
    rule: Rule
    until_train_accuracy: float | None
    average_first: bool

    @classmethod
    def from_table(
        cls, table: Mapping[str, Any], algorithm: Any, optimizer: Rule | None, problem: Any, faults: object
    ) -> Phases:
        """For a run with these other sections. Raises UserError that names the key."""
        keys = from_table(_Keys, table, "phases")
        replicas = from_table(Replicas, keys.replicas, REPLICAS)
        if faults is not None:
            raise UserError(
                "[phases] cannot go with [faults]: workers alone have no messages; remove one of them"
            )
        until = keys.until_train_accuracy
        if until is not None and not 0 < until <= 1:
            raise UserError(
                f"phases.until_train_accuracy = {until} must be in (0, 1], a share of samples; leave it out for "
                "train.rounds rounds"
            )
        known = isinstance(problem, Measured) and "train_accuracy" in problem.columns(1, 1.0)
        if until is not None and not known:
            raise UserError(
                f"phases.until_train_accuracy = {until} needs a problem of samples with labels; leave it out, and "
                "set train.rounds"
            )
        if replicas.data == "all" and not isinstance(problem, Layered):
            raise UserError(
                f'{REPLICAS}.data = "all" needs a problem whose samples are dealt out; set it to "own"'
            )
        schedule = named({"name": "constant", **(replicas.schedule or {})}, f"{REPLICAS}.schedule", DECAYS)
        rule = _rule(replicas.optimizer, algorithm, optimizer)
        if rule.hears or rule.evaluates:
            raise UserError(
                f"{rule.title} goes by losses, which workers alone are not told; set {REPLICAS}.optimizer to another "
                "rule"
            )
        return cls(replicas, schedule, rule, until, keys.average_first)

    @property
    def rounds(self) -> int:
        """How many there are after the first phase."""
        return self.replicas.rounds + 1

    def resolved(self) -> dict[str, Any]:
        """The table with its defaults written out."""
        schedule = {"name": name_of(self.schedule, NAMES), **fields_of(self.schedule)}
        optimizer = {"name": name_of(self.rule, RULES), **fields_of(self.rule)}
        until = (
            {} if self.until_train_accuracy is None else {"until_train_accuracy": self.until_train_accuracy}
        )
        return {
            **until,
            "average_first": self.average_first,
            "replicas": {**fields_of(self.replicas), "schedule": schedule, "optimizer": optimizer},
        }


@dataclass(frozen=True)
class _Keys:
    """All keys, so that a wrong one is told its neighbours."""

    replicas: dict[str, Any]
    until_train_accuracy: float | None = None
    average_first: bool = False


def _rule(table: Mapping[str, Any] | None, algorithm: Any, optimizer: Rule | None) -> Rule:
    """The update rule of workers alone."""
    if table is not None:
        found: Rule = named(dict(table), f"{REPLICAS}.optimizer", OPTIMIZERS)
        return found
    if optimizer is not None:
        return optimizer
    if own := traits_of(algorithm).optimizer:
        raise UserError(
            f"missing key {REPLICAS}.optimizer: the {own} of {type(algorithm).__name__} is its own; say what workers "
            'alone have, as in { name = "sgd", momentum = 0.9 }'
        )
    return SGD(momentum=getattr(algorithm, "momentum", 0.0))
