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

import copy
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from decentral.errors import UserError
from decentral.tables import fields_of, from_table, named, section

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class Run:
    """Everything that a run depends on. ``there``: what its file has, in words."""

    there: ClassVar[str] = ""

    name: str
    seed: int

    if TYPE_CHECKING:  # every kind has them, at its own place among its fields

        @property
        def problem(self) -> Any:
            """What is minimised."""

        @property
        def train(self) -> Train:
            """How long, how fast, with which numbers."""

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

    def fits(self) -> None:
        """Raise UserError for sections that do not go together; cheap."""

    def prepare(self) -> None:
        """On each rank: read the data and build the model once, so that every mistake is found first."""
        self.problem.prepare(self.workers, self.seed)

    def resolved(self) -> dict[str, Any]:
        """The table with every default written out: running it again repeats this run."""
        return resolved(self)


R = TypeVar("R", bound=Run)


class _Field(NamedTuple):
    hint: Any  # without None and without annotations
    optional: bool
    extra: Named | Key | None


def sections_of(kind: type[Run]) -> list[str]:
    """The sections that a file of this kind may have, in the order that they are written in."""
    return [name for name, field in _fields_of(kind).items() if not isinstance(field.extra, Key)]


def _fields_of(kind: type[Run]) -> dict[str, _Field]:
    """The fields of a kind that are sections, or keys of one, in their order."""
    if kind not in _KNOWN:
        _KNOWN[kind] = _found(kind)
    return _KNOWN[kind]


_KNOWN: dict[type[Run], dict[str, _Field]] = {}


def _found(kind: type[Run]) -> dict[str, _Field]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {}
    for name in (f.name for f in fields(kind) if f.name not in ("name", "seed")):
        hint, extra = hints[name], None
        if typing.get_origin(hint) is typing.Annotated:
            hint, extra = typing.get_args(hint)
        is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
        parts = typing.get_args(hint) if is_union else (hint,)
        rest = [part for part in parts if part is not type(None)]
        found[name] = _Field(rest[0], len(rest) < len(parts), extra)
    return found


@cache
def choices_of(where: str) -> dict[str, Any]:
    """The table, or the union of the tables, that :class:`Named` names."""
    found: dict[str, Any] = {}
    for one in where.split():
        module, _, name = one.partition(":")
        found |= getattr(importlib.import_module(module), name)
    return found


def read(kind: type[R], table: Table) -> R:
    """The run of a resolved table: one seed, no sweep. Raises UserError that names the key, the value and the rule."""
    run = kind(name=file_name(table["name"]), seed=table["seeds"][0], **_Reader(kind, table).values())
    run.fits()
    return run


class _Reader:
    def __init__(self, kind: type[Run], table: Table) -> None:
        self.kind, self.fields = kind, _fields_of(kind)
        self.table = kind.completed(table)
        self.found: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        for dotted, why in self.kind.without(self.table).items():
            key, _, inner = dotted.partition(".")
            if inner in section(self.table, key):
                raise UserError(f"{dotted} has no meaning {why}")
        return {name: self.value(name) for name in self.fields}

    def value(self, name: str) -> Any:
        if name not in self.found:
            self.found[name] = self._read(name, self.fields[name])
        return self.found[name]

    def _read(self, name: str, field: _Field) -> Any:
        hint, optional, extra = field
        if isinstance(extra, Key):
            given = section(self.table, extra.section).get(name, extra.default)
            if not isinstance(given, hint):
                raise UserError(f"{extra.section}.{name} = {given!r} should be {_IN_WORDS[hint]}")
            return given
        table = section(self.table, name)
        if optional and name not in self.table:
            return None
        for other, of in self.fields.items():
            if isinstance(of.extra, Key) and of.extra.section == name:
                table.pop(other, None)
        if isinstance(extra, Named):
            if extra.default:
                table.setdefault("name", extra.default)
            return named(table, name, choices_of(extra.choices))
        if not hasattr(hint, "from_table"):
            return from_table(hint, table, name)
        wanted = inspect.signature(hint.from_table).parameters.keys() & {*self.fields, "workers", "rounds"}
        return hint.from_table(table, **{key: self.fact(key) for key in wanted})

    def fact(self, name: str) -> Any:
        """A field, or how many workers or rounds there are."""
        if name == "rounds":
            return self.value("train").rounds
        if name != "workers":
            return self.value(name)
        topology = self.value("topology") if "topology" in self.fields else None
        return 1 if topology is None else topology.workers


_IN_WORDS = {bool: "true or false"}


def resolved(run: Run) -> dict[str, Any]:
    """The inverse of :func:`read`: the table with every default written out."""
    written: dict[str, Any] = {"name": run.name, "seeds": [run.seed]}
    for name, (_, _, extra) in _fields_of(type(run)).items():
        value = getattr(run, name)
        if isinstance(extra, Key):
            written[extra.section][name] = value
        elif value is not None:
            body = value.resolved() if hasattr(value, "resolved") else fields_of(value)
            if isinstance(extra, Named):
                body = {"name": _name_of(value, extra.choices), **body}
            written[name] = body
    for dotted in type(run).without(written):
        key, _, inner = dotted.partition(".")
        written.get(key, {}).pop(inner, None)
    return copy.deepcopy(written)


def _name_of(value: Any, choices: str) -> str:
    return next(name for name, made in choices_of(choices).items() if made is type(value))


def file_name(name: Any) -> str:
    """The experiment's name, if it can name a folder."""
    if not isinstance(name, str) or not name.strip(". ") or "/" in name or not name.isprintable():
        raise UserError(f'name = {name!r} should be a text that can name a folder, as in name = "quickstart"')
    return name
