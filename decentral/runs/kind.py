"""A kind of run is a dataclass whose fields are the sections of its file: read from a table, and written as one again.

A field's type says how its section is read::

    train: Train                                          a dataclass: its signature is the schema
    topology: Topology                                    Topology.from_table(table, algorithm), and handed that field
    schedule: Annotated[Schedule, Named("module:TABLE")]  [schedule] name = "..." chooses, the other keys are its fields
    faults: Faults | None                                 None where the file has no such section
    allow_unstable: Annotated[bool, Key("algorithm", False)]      one key of another field's section

Imports no torch.
"""

from __future__ import annotations

import functools
import pkgutil
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from decentral.errors import UserError
from decentral.optimizers.of_run import Facts, OfRun
from decentral.optimizers.schedules import Schedule
from decentral.problems.capabilities import Counted, rounds_a_batch

if TYPE_CHECKING:
    from decentral.problems.capabilities import BatchSize
    from decentral.runs.sections.train import Train

Table = Mapping[str, Any]


class Named(NamedTuple):
    """``choices``: where the table of names is, "module:NAME", or several, with spaces between; loaded when asked for.

    ``default``: the name where the file gives none; "" if it must.
    """

    choices: str
    default: str = ""


class Key(NamedTuple):
    """The field is one key of the section ``section``, which belongs to another field."""

    section: str
    default: Any


class Columns(NamedTuple):
    """What a run will record: columns of metrics.csv; and ``final``, further ones of results.csv."""

    recorded: tuple[str, ...]
    final: tuple[str, ...] = ()


OF_ALL = (
    "round",
    "wall_s",
    "bytes_sent_mean",
    "bytes_sent_max",
    "messages",
    "mpi_bytes_sent",
    "consensus_sq",
)
"""Columns that runs of all kinds have."""
OF_STALENESS = ("staleness_mean", "staleness_max")


@dataclass(frozen=True)
class Run:
    """Everything that a run depends on.

    ``there``: what its file has, in words. ``goes_on``: whether it leaves checkpoints; without them it begins anew.
    ``hears``: whether it knows the losses of all workers in each round, and tells a schedule that goes by them.
    """

    there: ClassVar[str] = ""
    goes_on: ClassVar[bool] = False
    hears: ClassVar[bool] = False

    name: str
    seed: int

    if TYPE_CHECKING:  # every kind has them, at its own place among its fields

        @property
        def problem(self) -> Any:
            """What is minimised."""

        @property
        def train(self) -> Train:
            """How long, how fast, with which numbers."""

        @property
        def schedule(self) -> Schedule:
            """How long the steps are, as the file says it."""

    @classmethod
    def is_meant(cls, table: Table) -> bool:
        """Whether a file with this table is a run of this kind."""
        raise NotImplementedError

    @classmethod
    def completed(cls, table: Table) -> Table:
        """The table with the sections that go without saying."""
        return table

    @classmethod
    def without(cls, table: Table) -> Mapping[str, str]:
        """Dotted keys of sections of this kind that have no meaning in it -> why, and the remedy."""
        del table
        return {}

    @property
    def workers(self) -> int:
        """Workers that the data are dealt to."""
        return 1

    @property
    def all_rounds(self) -> int:
        """Rounds that there will be at the most."""
        return self.train.rounds

    @property
    def batch_sizes(self) -> Mapping[str, BatchSize]:
        """The dotted key of a worker's batch size -> its value; several where it changes."""
        return {"train.batch_size": self.train.batch_size}

    def facts(self) -> Facts:
        """What its schedule may ask of it; this reads the data."""
        train, problem, samples, batch = self.train, self.problem, None, None
        if isinstance(problem, Counted):
            samples = problem.epoch_samples(self.workers)
            batch = samples if train.batch_size == "full" else train.batch_size * self.workers
        missing = "" if samples else "the problem has no data set"
        epoch = Fraction(samples * rounds_a_batch(problem), batch) if samples and batch else None
        return Facts(train.rounds, train.lr, self.seed, batch, epoch, missing, self.hears)

    @functools.cached_property
    def rates(self) -> Schedule:
        """The schedule as it can be asked in this run. Raises UserError where it does not fit into it."""
        if not isinstance(self.schedule, OfRun):
            return self.schedule
        try:
            return self.schedule.fitted(self.facts())
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"[schedule] {error}") from error

    def lr(self, t: int) -> float:
        """The learning rate of round t."""
        return self.rates.lr(t, self.train.rounds, self.train.lr)

    def columns(self, ranks: int) -> Columns | None:
        """What a run on so many ranks will record, that figures may ask for; None where that is not known."""
        del ranks
        return None

    def fits(self) -> None:
        """Raise UserError for sections that do not go together; cheap."""

    def prepare(self) -> object:
        """On each rank: read the data and build the model once, so that mistakes are found first; what that gave."""
        return self.problem.prepare(self.workers, self.seed)


class Field(NamedTuple):
    """How a field of a kind is read."""

    hint: Any  # without None and without annotations
    optional: bool
    extra: Named | Key | None


def name_of(value: Any, choices: str) -> str:
    """The name that chose ``value`` in the table ``choices``, or its path, which the table does not list."""
    names = (name for name, made in choices_of(choices).items() if made is type(value))
    return next(names, None) or str(value.path)


def sections_of(kind: type[Run]) -> list[str]:
    """The sections that a file of this kind may have, in the order that they are written in."""
    return [name for name, field in fields_of_kind(kind).items() if not isinstance(field.extra, Key)]


def fields_of_kind(kind: type[Run]) -> dict[str, Field]:
    """The fields of a kind that are sections, or keys of one, in their order."""
    if kind not in _KNOWN:
        _KNOWN[kind] = _found(kind)
    return _KNOWN[kind]


_KNOWN: dict[type[Run], dict[str, Field]] = {}


def _found(kind: type[Run]) -> dict[str, Field]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {}
    for name in (f.name for f in fields(kind) if f.name not in ("name", "seed")):
        hint, extra = hints[name], None
        if typing.get_origin(hint) is typing.Annotated:
            hint, extra = typing.get_args(hint)
        is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
        parts = typing.get_args(hint) if is_union else (hint,)
        rest = [part for part in parts if part is not type(None)]
        found[name] = Field(rest[0], len(rest) < len(parts), extra)
    return found


def choices_of(where: str) -> dict[str, Any]:
    """The table, or the union of the tables, that :class:`Named` names."""
    tables: list[dict[str, Any]] = [pkgutil.resolve_name(one) for one in where.split()]
    if len(tables) == 1:  # it may know names that it does not list
        return tables[0]
    return {name: thing for table in tables for name, thing in table.items()}
