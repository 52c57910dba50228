"""results.csv and metrics.csv read back: their header, their rows, and the number that a cell holds."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np

from decentral.errors import UserError
from decentral.report.results import Array, Value
from decentral.report.stored import AGAIN


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header of a CSV file, and its rows by column. Raises UserError if it is damaged."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, ValueError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} is damaged ({why}); {AGAIN}") from None
    header = lines[0] if lines else []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise UserError(f"{path} row {number} has {len(line)} cells but the header has {len(header)}")
    return header, [dict(zip(header, line, strict=True)) for line in lines[1:]]


def read_columns(path: Path, *, required: bool) -> dict[str, Array]:
    """The columns of a run's metrics.csv; none where it is gone, unless it is ``required``: UserError."""
    if not os.path.lexists(path):
        if required:
            raise UserError(f"{path} is missing though results.csv calls the run finished; run it again")
        return {}
    header, rows = read_csv(path)
    return {c: np.array([number_of(row[c]) for row in rows]) for c in header}


def split_header(header: list[str], path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The swept fields of results.csv stand between ``run, status, message`` and ``seed``, metrics after it."""
    missing = [c for c in ("run", "status", "message", "seed") if c not in header]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}; it is not one that `decentral run` wrote"
        )
    seed = header.index("seed")
    swept = tuple(c for c in header[:seed] if c not in ("run", "status", "message"))
    return swept, tuple(c for c in header[seed + 1 :])


def parse_value(text: str) -> Value:
    """A number where the text is one, else the text; ``nan`` stays text, as it equals nothing."""
    number = number_of(text)
    return text if math.isnan(number) else number


def number_of(text: str) -> float:
    """The number that a cell holds, or ``nan``."""
    try:
        return float(text)
    except ValueError:
        return math.nan
