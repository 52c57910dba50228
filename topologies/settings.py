"""Settings that a constructor was called with from Python: of the types that it declares, as plain Python values.

A file's settings are checked when it is read. Here the same holds for who calls the constructor: NaN passes every
comparison that asks whether a number is too small, True counts as 1, and numpy's numbers are written in another way.
"""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from topologies.wording import shown

_WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number"}


def plain_settings(settings: Any) -> None:
    """For ``__post_init__`` of a frozen dataclass: see to its fields that are declared bool, int or float.

    numpy's scalars become Python's. Raises ValueError for a value of another type, and for numbers that are not finite.
    """
    for field in dataclasses.fields(settings):
        declared = str(field.type).replace(" ", "").split("|")
        kind = next((kind for kind in _WORDS if kind in declared), None)
        value: Any = getattr(settings, field.name, None)
        if kind is None or not field.init or (value is None and "None" in declared):
            continue
        if isinstance(value, np.generic):
            object.__setattr__(settings, field.name, value := value.item())
        fits = _is(kind, value)
        if not fits or (kind == "float" and not math.isfinite(value)):
            rule = "a finite number" if fits else _WORDS[kind]
            default = "" if field.default is dataclasses.MISSING else f"; {field.default!r} is the default"
            raise ValueError(f"{field.name} = {shown(value)} must be {rule}{default}")


def _is(kind: str, value: object) -> bool:
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    return isinstance(value, Integral if kind == "int" else Real)
