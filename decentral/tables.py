"""From a TOML table to a typed value: the signature of a callable is the schema of its table.

A method's dataclass, a topology's constructor, a problem's settings: each is called with the keys of its
table, checked strictly against its annotations. There is no second class that mirrors it.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from decentral.errors import UserError, nearest

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class OneOf:
    """In ``Annotated[str, OneOf(table)]``: a name that the table has when the value is checked."""

    table: Mapping[str, Any]


def from_table(
    target: Callable[..., T], table: Mapping[str, Any], section: str, of: str = "", **given: Any
) -> T:
    """``target(**given, **table)`` after a strict check of ``table``; ``of`` is the name that chose the target.

    Raises UserError that names the key (``section.key``), its value and the rule it breaks.
    """
    from pydantic import ConfigDict, ValidationError, create_model  # here: only rank 0 reads tables

    fields = schema(target, given)
    unknown = [key for key in table if key not in fields]
    if unknown:
        whose = f" of {of}" if of else ""
        hint = nearest(unknown[0], fields) if fields else "it takes no further keys; remove this one"
        raise UserError(f"unknown key {section}.{unknown[0]}{whose}; {hint}")
    model: Any = create_model("Table", __config__=ConfigDict(strict=True), **fields)
    try:
        checked = model(**table)
    except ValidationError as error:
        raise UserError(_one_line(error, section)) from None
    try:
        return target(**given, **{key: getattr(checked, key) for key in fields})
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"[{section}] {error}") from error


def named(table: dict[str, Any], of: str, choices: Mapping[str, Any]) -> Any:
    """What the table's ``name`` chooses, called with its other keys; ``of`` is the section it stands in."""
    name = pop_name(table, of, choices)
    return from_table(choices[name], table, of, name)


def pop_name(table: dict[str, Any], of: str, choices: Mapping[str, Any]) -> str:
    """The table's ``name``, taken out of it. Raises UserError if it is none of the choices."""
    name = table.pop("name", None)
    if name is None:
        raise UserError(f"missing key {of}.name; valid: {', '.join(sorted(choices))}")
    if not isinstance(name, str) or name not in choices:
        raise UserError(f"{of}.name = {name!r} is not known; {nearest(str(name), choices)}")
    return str(name)


def section(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of the section ``[key]``, empty if it is not there."""
    found = table.get(key, {})
    if not isinstance(found, Mapping):
        raise UserError(f"{key} = {found!r} should be a table; write [{key}] and its keys below it")
    return dict(found)


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a settings dataclass as TOML has them: no None, arrays for tuples."""
    pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in pairs if v is not None}


def schema(target: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> (type, default) of every parameter of ``target`` that is not ``given``."""
    hints = typing.get_type_hints(target, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if name not in given:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[name] = (_from_toml(hints.get(name, Any)), default)
    return fields


def _from_toml(hint: Any) -> Any:
    """TOML has arrays, no tuples: ``tuple[int, ...]`` is read from an array; a path is a text; names are a table's."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, OneOf):
            return Literal[tuple(mark.table)]
    if typing.get_origin(hint) is tuple:
        return list[typing.get_args(hint)[0]]  # type: ignore[misc]
    if any(typing.get_origin(part) is os.PathLike for part in typing.get_args(hint)):
        return str
    return hint


def _one_line(error: ValidationError, section: str) -> str:
    first, *others = error.errors()
    key = f"{section}.{first['loc'][0]}"
    if first["type"] == "missing":
        return f"missing key {key}; add it to [{section}]"
    same = [first, *(e for e in others if e["loc"][0] == first["loc"][0])]  # the choices of a union
    rules = [e["msg"].removeprefix("Input should be ") for e in same]
    return f"{key} = {first['input']!r} should be {' or '.join(dict.fromkeys(rules))}"
