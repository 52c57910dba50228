"""A run from its table, and the table of a run: what a kind's fields say of sections, done."""

from __future__ import annotations

import copy
import inspect
from typing import Any, TypeVar

from decentral.errors import UserError
from decentral.runs.kind import Field, Key, Named, Run, Table, choices_of, fields_of_kind, name_of
from decentral.tables import fields_of, from_table, named, section
from topologies.wording import shown

R = TypeVar("R", bound=Run)


def read(kind: type[R], table: Table) -> R:
    """The run of a resolved table: one seed, no sweep. Raises UserError that names the key, the value and the rule."""
    run = kind(name=file_name(table["name"]), seed=table["seeds"][0], **_Reader(kind, table).values())
    run.fits()
    return run


class _Reader:
    def __init__(self, kind: type[Run], table: Table) -> None:
        self.kind, self.fields = kind, fields_of_kind(kind)
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

    def _read(self, name: str, field: Field) -> Any:
        hint, optional, extra = field
        if isinstance(extra, Key):
            given = section(self.table, extra.section).get(name, extra.default)
            if not isinstance(given, hint):
                raise UserError(f"{extra.section}.{name} = {shown(given)} should be {_IN_WORDS[hint]}")
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
        facts = {*self.fields, "workers", "rounds"}
        wanted = [key for key in inspect.signature(hint.from_table).parameters if key in facts]
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
    for name, (_, _, extra) in fields_of_kind(type(run)).items():
        value = getattr(run, name)
        if isinstance(extra, Key):
            written[extra.section][name] = value
        elif value is not None:
            body = value.resolved() if hasattr(value, "resolved") else fields_of(value)
            if isinstance(extra, Named):
                body = {"name": name_of(value, extra.choices), **body}
            written[name] = body
    for dotted in type(run).without(written):
        key, _, inner = dotted.partition(".")
        written.get(key, {}).pop(inner, None)
    return copy.deepcopy(written)


def file_name(name: Any) -> str:
    """The experiment's name, if it can name a folder."""
    can = isinstance(name, str) and name.strip(". ") and "/" not in name and name.isprintable()
    if not can or len(name.encode()) > 200:
        raise UserError(
            f'name = {shown(name)} should be a text that can name a folder, as in name = "quickstart"'
        )
    return str(name)
