"""A matrix as a table of text, with or without the names of rows and columns that spreadsheets and pandas write."""

from __future__ import annotations

from typing import Any

import numpy as np

from topologies.array_files import check_shape
from topologies.listed import natural
from topologies.real_numbers import number_of
from topologies.text_files import fields, statements, wrong

_NOT_FINITE = ("nan", "inf", "+inf", "-inf")


def read_table(text: str, table: bool = False) -> np.ndarray[Any, Any]:
    """The numbers of a text, a line a row, (rows, columns); names of columns above and of rows before are left out.

    Names have to be in the order in which workers are numbered, and the same above and before. Raises ValueError
    that names the line.
    """
    rows = []
    for number, line in statements(text, table):
        try:
            rows.append((number, line, fields(line, spaces=table)))
        except ValueError as error:
            raise wrong(number, line, str(error)) from None
        check_shape((len(rows), len(rows[-1][2])))
    if not rows:
        raise ValueError("it holds no numbers")
    header, before = _has_header(rows), _has_names(rows)
    names = rows[0][2] if header else []
    values = [_numbers(number, line, words[before:]) for number, line, words in rows[header:]]
    if not values:
        raise ValueError("it holds no numbers below its header")
    for (number, line, _), row in zip(rows[header:], values, strict=True):
        if len(row) != len(values[0]):
            raise wrong(number, line, f"it has {len(row)} numbers where the first row has {len(values[0])}")
    if before:
        _check_names([words[0] for _, _, words in rows[header:]], "rows")
    if names:
        above = names[len(names) - len(values[0]) :]
        _check_names(above, "columns")
        if before and len(above) == len(values) and above != [words[0] for _, _, words in rows[header:]]:
            raise ValueError(
                "its rows and columns have different names; give both the same, in the same order"
            )
    return np.array(values, dtype=np.float64)


def _has_header(rows: list[Any]) -> bool:
    """Whether the first row is one of names: words, an empty corner, or 0, 1, 2 above as many rows."""
    words = rows[0][2]
    if not all(number_of(word) is not None or word.casefold() in _NOT_FINITE for word in words):
        return True
    return len(rows) > 1 and len(rows) - 1 == len(rows[1][2]) == len(words) and _counts(words)


def _has_names(rows: list[Any]) -> bool:
    """Whether the first column is one of names."""
    body = [words for _, _, words in rows[_has_header(rows) :]]
    if any(number_of(words[0]) is None and words[0].casefold() not in _NOT_FINITE for words in body):
        return all(number_of(words[0]) is None for words in body)
    columns = {len(words) for words in body}
    return len(body) > 1 and columns == {len(body) + 1} and _counts([words[0] for words in body])


def _counts(words: list[str]) -> bool:
    return any(words == [str(i) for i in range(k, k + len(words))] for k in (0, 1))


def _check_names(names: list[str], what: str) -> None:
    if names != sorted(names, key=natural) or len(set(names)) < len(names):
        rule = "workers are numbered by their names in natural order"
        raise ValueError(f"the names of its {what} are in another order: {rule}; sort rows and columns so")


def _numbers(number: int, line: str, words: list[str]) -> list[float]:
    values = []
    for word in words:
        value = float(word) if word.casefold() in _NOT_FINITE else number_of(word)
        if value is None:
            raise wrong(
                number, line, f"{word[:20] or 'an empty field'} is no number; write a point for decimals"
            )
        values.append(value)
    return values
