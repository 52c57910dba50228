"""Times and rates with units as text, ``"50 us"`` or ``"10 Gb/s"``: a fixed table, b for bits and B for bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from decentral.errors import UserError, nearest
from topologies.wording import shown

SECONDS = {"s": Fraction(1), "ms": Fraction("1e-3"), "us": Fraction("1e-6"), "ns": Fraction("1e-9")}
"""Seconds in a unit of time; exact, so that 50 us is the number 50e-6."""

_PREFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
BYTES_S = {
    f"{prefix}{one}/s": Fraction(factor, bits)
    for one, bits in (("B", 1), ("b", 8))
    for prefix, factor in _PREFIXES.items()
}
"""Bytes a second in a unit of rate."""

_TEXT = re.compile(r"(-?[0-9.]+(?:[eE][+-]?[0-9]{1,2})?) ?([A-Za-z/]+)")


def quantity(value: object, key: str, units: Mapping[str, Fraction]) -> float:
    """A number as it is, or a text ``"NUMBER UNIT"`` in the unit that ``units`` counts in.

    Raises UserError that names ``key``: for another text, for a unit that is not in ``units``, for what is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    example = f"write a number, or a number and a unit as '10 {next(iter(units))}'"
    found = _TEXT.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise UserError(f"{key} = {shown(value)} is not a quantity; {example}")
    number, unit = found.groups()
    if unit not in units:
        raise UserError(f"{key} = {shown(value)} has the unknown unit {shown(unit)}; {nearest(unit, units)}")
    try:
        return float(Fraction(number) * units[unit])
    except (ValueError, OverflowError):
        raise UserError(f"{key} = {shown(value)} is not a quantity; {example}") from None
