"""Settings that a constructor was called with from Python: of the types that it declares, as plain Python values.

A file's settings are checked when it is read. Here the same holds for who calls the constructor: NaN passes every
comparison that asks whether a number is too small, True counts as 1, and numpy's numbers are written in another way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np

from topologies.wording import shown

_WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number"}


def plain_settings(settings: Any) -> None:
    """For ``__post_init__`` of a frozen dataclass: see to its fields that are declared bool, int or float.

    numpy's scalars become Python's. Raises ValueError for a value of another type. The constructor's own rules come
    next, and :func:`finite_settings` last, for numbers that no rule bounds.
    """
    for field, kind, value in _declared(settings):
        if isinstance(value, np.generic):
            object.__setattr__(settings, field.name, value := value.item())
        if not _is(kind, value):
            raise ValueError(f"{field.name} = {shown(value)} must be {_WORDS[kind]}{_default(field)}")


def finite_settings(settings: Any) -> None:
    """Raise ValueError for a number that is not finite."""
    for field, kind, value in _declared(settings):
        if kind == "float" and not math.isfinite(value):
            raise ValueError(f"{field.name} = {value} must be a finite number{_default(field)}")


def _declared(settings: Any) -> Iterator[tuple[dataclasses.Field[Any], str, Any]]:
    """Fields declared bool, int or float, as what, and their values; but for None where that is declared too."""
    for field in dataclasses.fields(settings):
        declared = str(field.type).replace(" ", "").split("|")
        kind = next((kind for kind in _WORDS if kind in declared), None)
        value = getattr(settings, field.name, None)
        if kind is not None and field.init and not (value is None and "None" in declared):
            yield field, kind, value


def _default(field: dataclasses.Field[Any]) -> str:
    return "" if field.default is dataclasses.MISSING else f"; {field.default!r} is the default"


def _is(kind: str, value: object) -> bool:
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    return isinstance(value, Integral if kind == "int" else Real)
