"""Edge lists: a line ``from to`` or ``from to weight`` for each edge, in the dialects that programs write."""

from __future__ import annotations

import ast
import re
from typing import Any

from topologies.list_heads import Row, columns_of_header, without_counts
from topologies.listed import Listed
from topologies.real_numbers import number_of
from topologies.text_files import fields, statements, wrong

_ARROW = re.compile(r"\s*(<?-{1,2}>|<-{1,2}|--|<?=>|[→←↔—])\s*")
_BACK = ("<-", "<--", "←")
_BOTH = ("<->", "<-->", "<=>", "↔")
_WITHOUT = ("--", "—", "")
_LONGEST_DATA = 2_000


def read_edge_list(text: str, directed: bool, table: bool = False) -> Listed:
    """The graph of an edge list; see :func:`topologies.files.read_graph` for what it may hold.

    ``table``: whether it is one of a spreadsheet. Raises ValueError that names the line.
    """
    rows = [_row(number, line, table) for number, line in statements(text, table)]
    _check_arrows(rows, directed)
    listed = Listed(directed)
    columns = columns_of_header(rows)
    if columns is not None:
        for row in rows[1:]:
            _by_columns(row, columns, listed)
        return listed
    for row in without_counts(rows):
        _plain(row, listed)
    return listed


def data_of(text: str) -> dict[str, Any]:
    """What networkx writes of an edge, ``{'weight': 3.0}``. Raises ValueError where it is no such dictionary."""
    try:
        found = ast.literal_eval(text.strip()) if len(text) <= _LONGEST_DATA else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError("what is in braces is no dictionary of names and numbers")
    return found


def _row(number: int, line: str, table: bool) -> Row:
    brace, data = line.find("{"), {}
    try:
        if brace > 0:
            data = data_of(line[brace:])
            line_of_words = line[:brace].rstrip(" \t,;")
        else:
            line_of_words = line.rstrip("; \t,") if not table else line
        parts = _ARROW.split(line_of_words)
        if len(parts) == 1:
            return Row(number, line, fields(line_of_words, spaces=table), "", data)
        if len(parts) > 3 or not parts[0] or not parts[2]:
            raise ValueError("an arrow stands between two nodes, one on a line")
        first, rest = fields(parts[0], table), fields(parts[2], table)
        if len(first) != 1:
            raise ValueError("an arrow follows the first node")
        return Row(number, line, first + rest, parts[1], data)
    except ValueError as error:
        raise wrong(number, line, str(error)) from None


def _check_arrows(rows: list[Row], directed: bool) -> None:
    edges = [row for row in rows if len(row.words) > 1]
    if not edges or not any(row.arrow for row in edges):
        return
    kinds = [(row.arrow not in _WITHOUT, bool(row.arrow)) for row in edges]
    first = edges[0]
    for row, kind in zip(edges, kinds, strict=True):
        if kind != kinds[0]:
            rule = f"line {first.number} has {first.arrow or 'no arrow'}; write all edges alike"
            raise wrong(row.number, row.line, rule)
    if kinds[0][0] and not directed:
        rule = f"{first.arrow} is a direction; set directed = true, or write '--' for edges without one"
        raise wrong(first.number, first.line, rule)
    if not kinds[0][0] and directed:
        rule = f"{first.arrow} has no direction; write '->', or leave out directed = true"
        raise wrong(first.number, first.line, rule)


def _plain(row: Row, listed: Listed) -> None:
    words = [*row.words]
    while words and not words[-1]:  # spreadsheets fill short rows up
        words.pop()
    if not all(words):
        raise wrong(row.number, row.line, "a field is empty; give each edge two nodes")
    if len(words) == 3 and "weight" not in row.data:
        if number_of(words[2]) is None:
            raise wrong(row.number, row.line, "the weight is no number; write one, with a point for decimals")
        row.data["weight"] = words.pop()
    if len(words) == 1 and not row.data:
        listed.node(words[0])
    elif len(words) == 2:
        a, b = reversed(words) if row.arrow in _BACK else words
        listed.edge(a, b, row.data, row.number)
        if row.arrow in _BOTH:
            listed.edge(b, a, dict(row.data), row.number)
    else:
        raise wrong(row.number, row.line)


def _by_columns(row: Row, columns: list[str], listed: Listed) -> None:
    if len(row.words) > len(columns) and any(row.words[len(columns) :]):
        raise wrong(row.number, row.line, f"the header has {len(columns)} columns; give each line as many")
    values = dict(zip(columns, row.words, strict=False))
    a, b = (values.pop(key, "") for key in ("source", "target"))
    kind = values.pop("type", "")
    if kind.casefold() not in ("", "directed" if listed.directed else "undirected"):
        other = "leave out directed = true" if listed.directed else "set directed = true"
        raise wrong(row.number, row.line, f"its type is {kind}; {other}, or give all lines one type")
    data: dict[str, Any] = {
        key: value if key == "weight" or (number := number_of(value)) is None else number
        for key, value in values.items()
        if key and value
    }
    if a and b:
        listed.edge(a, b, data, row.number)
    elif a or b:
        listed.node(a or b)
    else:
        raise wrong(row.number, row.line, "it names no node; give each edge two")
