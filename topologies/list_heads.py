"""What the first line of a list of edges may be, other than an edge: names of columns, or counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from topologies.listed import natural
from topologies.real_numbers import number_of
from topologies.text_files import wrong

_ENDS = (
    ("source", "target"), ("source", "destination"), ("source", "dest"), ("source", "sink"), ("src", "dst"),
    ("src", "dest"), ("src", "tgt"), ("from", "to"), ("fromnode", "tonode"), ("fromnodeid", "tonodeid"),
    ("fromid", "toid"), ("sourceid", "targetid"), ("sourcenode", "targetnode"), ("node1", "node2"),
    ("nodea", "nodeb"), ("id1", "id2"), ("nodeid1", "nodeid2"), ("start", "end"), ("tail", "head"),
    ("sender", "receiver"), ("u", "v"), ("i", "j"), ("a", "b"), ("x", "y"), ("row", "col"), ("row", "column"),
)  # fmt: skip
"""Names of the two columns of nodes."""

_WEIGHTS = ("weight", "weights", "w", "edgeweight")


class Row(NamedTuple):
    """A line: its words, an arrow between the first two or "", and the dictionary at its end."""

    number: int
    line: str
    words: list[str]
    arrow: str
    data: dict[str, Any]


def columns_of_header(rows: Sequence[Row]) -> list[str] | None:
    """The names of the columns if the first line is a header, else None; ends are "source" and "target".

    It is one if it has a pair of names of ``_ENDS`` that no other line has as nodes. Raises ValueError where only
    the first line names nodes by words, for it might be one or the other.
    """
    if not rows or len(rows[0].words) < 2 or rows[0].arrow or rows[0].data:
        return None
    first = rows[0]
    names = [re.sub(r"[\s_\-]", "", word).casefold() for word in first.words]
    ends = next((pair for pair in _ENDS if all(end in names for end in pair)), None)
    if ends is not None:
        places = [names.index(end) for end in ends]
        used = {row.words[place] for row in rows[1:] for place in places if place < len(row.words)}
        if not used & {first.words[place] for place in places}:
            named = dict(zip(ends, ("source", "target"), strict=True))
            named |= dict.fromkeys(_WEIGHTS, "weight") | {"type": "type"}
            return [named.get(name, word) for name, word in zip(names, first.words, strict=True)]
    _check_one_kind(rows)
    return None


def _check_one_kind(rows: Sequence[Row]) -> None:
    first, *others = rows
    labels = {word for row in others for word in row.words[:2]}
    if labels and all(map(_is_number, labels)) and not any(map(_is_number, first.words[:2])):
        rule = "is it an edge, or a header? Begin a header with #, or remove it"
        raise wrong(first.number, first.line, f"no other line names nodes by words; {rule}")


def _is_number(word: str) -> bool:
    return number_of(word) is not None


def without_counts(rows: list[Row]) -> list[Row]:
    """The rows without a first line ``n``, ``n m`` or ``n n m`` that counts the nodes and edges of the others.

    Raises ValueError where a first line may be read both ways.
    """
    if len(rows) < 2 or rows[0].arrow or rows[0].data or not all(word.isdecimal() for word in rows[0].words):
        return rows
    counts = [int(word) for word in rows[0].words if len(word) < 12]
    if len(counts) != len(rows[0].words):
        return rows
    edges = [row for row in rows[1:] if len(row.words) > 1]
    labels = {word for row in rows[1:] for word in row.words[:2]}
    if len(counts) == 1:
        return _without_n(rows, counts[0], labels, len(edges) < len(rows) - 1)
    if len(counts) == 3 and counts[0] != counts[1]:
        return rows
    distinct = {frozenset(row.words[:2]) for row in edges}
    if not _counts(counts[0], labels) or counts[-1] not in (len(edges), len(distinct)) or len(counts) > 3:
        return rows
    if not _might_be_edge(rows, edges, distinct, labels):
        return rows[1:]
    reading = f"is it an edge, or does it count {counts[0]} nodes and {counts[-1]} edges?"
    raise wrong(rows[0].number, rows[0].line, f"{reading} Remove it, or move it below another edge")


def _without_n(rows: list[Row], n: int, labels: set[str], others_alone: bool) -> list[Row]:
    first = rows[0]
    if others_alone or len(labels) < 2:
        return rows
    if _counts(n, labels):
        return rows[1:]
    within = all(word.isdecimal() and len(word) < 12 and int(word) <= n for word in labels)
    if within and first.words[0] not in labels:
        reading = f"is it a node without edges, or does it count {n} nodes, where {len(labels)} follow?"
        raise wrong(first.number, first.line, f"{reading} Remove it, or move it to the end")
    return rows


def _counts(n: int, labels: set[str]) -> bool:
    """Whether there are n labels, 0 to n - 1 or 1 to n where they are numbers."""
    if len(labels) != n:
        return False
    if not any(map(_is_number, labels)):
        return True
    return any(labels == {str(i) for i in range(start, start + n)} for start in (0, 1))


def _might_be_edge(
    rows: list[Row], edges: list[Row], distinct: set[frozenset[str]], labels: set[str]
) -> bool:
    """Whether the first line, whose numbers count what follows, is as likely an edge of its own.

    It is none with ends that no other edge has, from a node to itself, or there already; nor out of order before at
    least three edges in ascending order.
    """
    ends = frozenset(rows[0].words[:2])
    if len(ends) == 1 or ends in distinct or not ends & labels:
        return False
    order = [[natural(word) for word in row.words[:2]] for row in edges]
    ascending = all(a <= b for a, b in pairwise(order))
    return not (len(order) >= 3 and ascending and [natural(word) for word in rows[0].words[:2]] > order[-1])
