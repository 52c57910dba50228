"""A weight as others write it: any real number, or a text that is one, as a float."""

from __future__ import annotations

import contextlib
import math
import numbers
import re
from decimal import Decimal
from typing import Any

from topologies.wording import shown

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def number_of(text: str) -> float | None:
    """The finite or infinite number that ``text`` writes in digits, else None: no ``nan``, ``inf`` or ``1_000``."""
    text = text.strip()
    return float(text) if len(text) <= 400 and _NUMBER.fullmatch(text) else None


def real(value: Any) -> float:
    """``value`` as a finite float: of Python, numpy, ``decimal``, ``fractions``, one element of torch, or digits.

    Raises ValueError that says what it is instead, to go on "the weight ...".
    """
    number: float | None = None
    if isinstance(value, str):
        number = number_of(value)
        if number is None:
            raise ValueError(f"is {shown(value)}, which is no number; write one, with a point for decimals")
    elif isinstance(value, numbers.Real | Decimal) or _holds_one_real(value):
        with contextlib.suppress(OverflowError, ValueError, TypeError):
            number = float(value)
    else:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        raise ValueError(f"is {shown(value)} of type {name.removeprefix('builtins.')}; give a real number")
    if number is None or not math.isfinite(number):
        raise ValueError(f"is {shown(value)}, which is not finite as a float; give a finite number")
    return number


def _holds_one_real(value: Any) -> bool:
    """Whether it is an array or a tensor without axes of real numbers, whoever's library it is of."""
    dtype = str(getattr(value, "dtype", ""))
    return getattr(value, "shape", None) == () and "complex" not in dtype and dtype not in ("", "object")
