"""From a TOML text to a table, and from that to a typed value: the signature of a callable is its table's schema.

A method's dataclass, a topology's constructor, a problem's settings: each is called with the keys of its
table, checked strictly against its annotations. There is no second class that mirrors it.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import inspect
import os
import re
import sys
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from decentral.errors import UserError, nearest
from topologies.wording import LONGEST_VALUE, cut, shown

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")

LARGEST = 1e30
"""Of a finite number: float32 ends at 3.4e38, and products of such numbers soon after."""
LARGEST_FILE, LONGEST_TEXT, DEEPEST = 2_000_000, 10_000, 24
"""Of a file that people write: bytes at most; characters of a text in it; tables and arrays inside one another."""


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The table of a TOML file of at most 2 MB. Raises UserError; ``what`` should be given, as in "a cluster file"."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
        if len(raw) > LARGEST_FILE:
            raise UserError(f"{path} has more than {LARGEST_FILE // 10**6} MB; give {what} (*.toml)")
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of {what} (*.toml)") from None
    except (OSError, ValueError) as error:  # not text; or a path that no file can have
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read ({error}); give {what} (*.toml)") from None
    return parse_toml(text, str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table of a TOML text. Raises UserError, also for what is too deep or too large; see :func:`check_values`."""
    if any(part.count(".") > _MOST_DOTS for part in re.split(r"[^\w\"'. \t-]", text)):
        raise UserError(f"{where} has {_TOO_DEEP}")  # the parser takes minutes
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is not valid TOML: {error}") from None
    except RecursionError:
        raise UserError(f"{where} has {_TOO_DEEP}") from None
    except (ValueError, ArithmeticError):  # Python reads no integer of more than 4,300 digits
        raise UserError(f"{where} has {_TOO_LARGE}") from None
    check_values(table, where)
    return table


def check_values(table: Mapping[str, Any], where: str) -> None:
    """Refuse what no key can mean: deep nesting, integers beyond 64 bits, long texts, dates. UserError."""
    for key, value in _values(table, where):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UserError(f"{where}: {key} = {shown(value)} is {_TOO_LARGE}")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise UserError(
                f"{where}: {key} is a text of {len(value):,} characters; write one of at most {LONGEST_TEXT:,}"
            )
        if isinstance(value, datetime.date | datetime.time):
            raise UserError(
                f"{where}: {key} = {value} is a date or a time, which no key takes; write a number, or a "
                "text in quotes"
            )


_MOST_DOTS = 1_000  # without anything between but letters, spaces and quotes
_TOO_DEEP = f"tables or arrays more than {DEEPEST} deep inside one another; write what is meant"
_TOO_LARGE = "an integer beyond the 64 bits that TOML's have; write a smaller one"


def _values(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is no table and no array, however deep; without recursion."""
    waiting: list[tuple[str, Any, int]] = [("", table, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise UserError(f"{where} has {_TOO_DEEP}")
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if not isinstance(name, str) or len(name) > LONGEST_VALUE:
                    raise UserError(f"{where}: {shown(name)} can be no key; write one of its table")
                waiting.append((f"{key}.{name}" if key else name, inner, depth + 1))
        elif isinstance(value, list | tuple):
            waiting += ((key, inner, depth + 1) for inner in value)
        else:
            yield key, value


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
        raise UserError(f"unknown key {section}.{cut(unknown[0], LONGEST_VALUE)}{whose}; {hint}")
    model: Any = create_model("Table", __config__=ConfigDict(strict=True), **fields)
    try:
        checked = model(**table)
    except ValidationError as error:
        raise UserError(_one_line(error, section)) from None
    try:
        made = target(**given, **{key: getattr(checked, key) for key in fields})
        for key, value in _values(table, f"[{section}]"):
            if isinstance(value, float) and not (abs(value) <= LARGEST or abs(value) == float("inf")):
                raise UserError(
                    f"{section}.{key} = {value} is beyond what a run can compute with; use less than {LARGEST}"
                )
        return made
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"[{section}] {error}") from error
    except (ArithmeticError, MemoryError, RecursionError, TypeError) as error:
        raise UserError(
            f"[{section}] {type(error).__name__}: {error}; a value is too large or of no use here: mend it"
        ) from error


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
        near = nearest(name if isinstance(name, str) else "", choices)
        raise UserError(f"{of}.name = {shown(name)} is not known; {near}")
    return str(name)


def brought(path: str, what: str, form: str, example: str, remedy: str = "") -> Any:
    """What ``path``, "module:name", names; the module is looked for in the current folder first.

    ``what`` begins all messages; ``form`` and ``example`` are of such a path; ``remedy``: of an import that failed.
    Raises UserError naming the step that went wrong: the path, the import, or the name.
    """
    name, colon, attribute = path.partition(":")
    if not (name and colon and attribute):
        raise UserError(f"{what} {shown(path)} must be written {form!r}, as in {example!r}")
    if "" not in sys.path and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise UserError(
            f"{what} {shown(path)}: importing {cut(name, LONGEST_VALUE)} from {Path.cwd()} raised {said(error)}{remedy}"
        ) from error
    found = getattr(module, attribute, None)
    if found is None:
        known = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"{what} {shown(path)}: {getattr(module, '__file__', name)} has no {shown(attribute)}; "
            f"{nearest(attribute, known)}"
        )
    return found


def said(error: BaseException) -> str:
    """Type and first line of what ``error`` says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def section(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of the section ``[key]``, empty if it is not there."""
    found = table.get(key, {})
    if not isinstance(found, Mapping):
        raise UserError(f"{key} = {shown(found)} should be a table; write [{key}] and its keys below it")
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
    return f"{key} = {shown(first['input'])} should be {' or '.join(dict.fromkeys(rules))}"
