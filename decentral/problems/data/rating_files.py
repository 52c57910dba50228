"""Files of ratings: MovieLens' ratings.csv, with a header, and u.data of MovieLens-100K, between tabs."""

from __future__ import annotations

import functools
import math
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from decentral.errors import UserError
from decentral.problems.data.data_root import find_file
from decentral.problems.data.ratings import Ratings
from topologies.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MOVIELENS_HOME = "https://grouplens.org/datasets/movielens/"
COLUMNS = ("userId", "movieId", "rating", "timestamp")

_FOLDERS = ("ml-latest-small", "ml-latest", "ml-32m", "ml-25m", "ml-20m")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST_ID = 1 << 53  # whole numbers up to here are themselves in float64


class Form(NamedTuple):
    """How a file is written: ``places`` of COLUMNS in a line, what is between them, lines before the first rating."""

    places: tuple[int, ...]
    between: str
    skipped: int


@functools.cache
def movielens(root: Path | None) -> Ratings:
    """``ratings.csv`` of MovieLens, with columns userId, movieId, rating and timestamp in any order."""
    path = find_file(root, "movielens", ["ratings.csv"], MOVIELENS_HOME, _FOLDERS)
    return read_ratings(path, _csv_form(path), "movielens")


@functools.cache
def movielens_100k(root: Path | None) -> Ratings:
    """``u.data`` of MovieLens-100K: user, item, rating and timestamp between tabs, without a header."""
    path = find_file(root, "ml-100k", ["u.data"], MOVIELENS_HOME)
    return read_ratings(path, Form((0, 1, 2, 3), "\t", 0), "movielens-100k")


def read_ratings(path: Path, form: Form, name: str) -> Ratings:
    """The ratings of a file, in its order; empty lines are left out.

    Raises UserError that names the file and the line: fewer columns, what is no finite number, an id that is no whole
    number, and a user's second rating of an item.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file without a line, which is refused below
            table = np.loadtxt(
                path, delimiter=form.between, usecols=form.places, skiprows=form.skipped, comments=None, ndmin=2,
                encoding="utf-8-sig",
            )  # fmt: skip
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); see to its permissions") from error
    except ValueError as error:  # of a line, which numpy counts in its own way
        _refuse(path, form, str(error))
    if not len(table):
        raise UserError(f"{path}: it holds no rating; give a file with one a line")
    ids = table[:, :2]
    whole = np.isfinite(table).all() and (ids == np.floor(ids)).all() and np.abs(ids).max() < _LARGEST_ID
    if not whole or _repeated(ids):
        _refuse(path, form, "it cannot be read")
    users, items = ids.T.astype(np.int64)
    return Ratings(name, users, items, table[:, 2], table[:, 3], f"{path.name}, {len(table):,} ratings")


def _csv_form(path: Path) -> Form:
    """By the header, whose line may be behind empty ones. Raises UserError for one that lacks a column."""
    number, header = next(_lines(path, 0), (1, ""))
    found = [word.strip().strip('"') for word in header.split(",")]
    missing = [column for column in COLUMNS if column not in found]
    if missing:
        raise UserError(
            f"{path}: line {number} is {shown(header)} and has no column {' and no '.join(missing)}; the header of "
            f"ratings is {','.join(COLUMNS)}"
        )
    return Form(tuple(found.index(column) for column in COLUMNS), ",", number)


def _lines(path: Path, skipped: int) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty, beyond the first ``skipped``; bytes that are no UTF-8 remain."""
    with path.open(encoding="utf-8-sig", errors="backslashreplace") as lines:
        for number, line in enumerate(lines, 1):
            if number > skipped and line.strip():
                yield number, line.rstrip("\n")


def _repeated(ids: NDArray[np.float64]) -> bool:
    """Whether a pair (user, item) is there twice."""
    codes = [np.unique(column, return_inverse=True)[1] for column in ids.T]
    pairs = codes[0] * (int(codes[1].max()) + 1) + codes[1]
    return len(np.unique(pairs)) < len(pairs)


def _refuse(path: Path, form: Form, otherwise: str) -> NoReturn:
    """Raise UserError for the first wrong line; ``otherwise`` is said where each is right by itself."""
    lines: dict[tuple[float, float], int] = {}
    for number, line in _lines(path, form.skipped):
        words = line.split(form.between)
        why = _wrong(words, form)
        if not why:
            user, item = (float(words[k]) for k in form.places[:2])
            first = lines.setdefault((user, item), number)
            if first == number:
                continue
            why = f"user {user:.0f} has rated item {item:.0f} in line {first} already; keep one of the two"
        raise UserError(f"{path}: line {number} is {shown(line)}: {why}")
    raise UserError(f"{path}: {otherwise}; give user, item, rating and timestamp in each line")


def _wrong(words: list[str], form: Form) -> str:
    """What is wrong with a line's words by themselves, or ""."""
    if len(words) <= max(form.places):
        between = "tabs" if form.between == "\t" else "commas"
        return f"expected {max(form.places) + 1} columns between {between}, found {len(words)}"
    for column, place in zip(COLUMNS, form.places, strict=True):
        word = words[place].strip()
        if not _NUMBER.fullmatch(word) or not math.isfinite(float(word)):
            return f"{column} {shown(word)} is no finite number; mend or remove the line"
        if column.endswith("Id") and not (float(word).is_integer() and abs(float(word)) < _LARGEST_ID):
            return f"{column} {shown(word)} is no whole number that counts"
    return ""
