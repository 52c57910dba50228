"""Adjacency lists: a line ``node neighbour ...`` for each node, or of each neighbour a line of its own."""

from __future__ import annotations

from topologies.edge_lists import data_of
from topologies.listed import Listed
from topologies.text_files import statements, wrong


def read_neighbour_list(text: str, directed: bool) -> Listed:
    """The graph of an adjacency list, as networkx writes it with a line a node or, multiline, a line a neighbour.

    Undirected edges may stand at one of their ends or at both. Raises ValueError that names the line.
    """
    lines = list(statements(text))
    if any("{" in line for _, line in lines):
        return _multiline(lines, directed)
    rows = [(number, line, line.replace(",", " ").split()) for number, line in lines]
    listed, heads = Listed(directed), dict[str, int]()
    seen: set[tuple[str, str]] = set()
    for number, line, words in _without_count(rows):
        head = words[0] if words[0] == ":" else words[0].removesuffix(":")
        if head in heads:
            raise wrong(
                number, line, f"line {heads[head]} begins with the same node; give each node one line"
            )
        heads[head] = number
        listed.node(head)
        for other in words[1:]:
            if "->" in other or other in ("--", ":"):
                raise wrong(number, line, "write nodes only, 'node neighbour ...'; for arrows use .edgelist")
            if (head, other) not in seen and (directed or (other, head) not in seen):
                listed.edge(head, other, None, number)
                seen.add((head, other))
    return listed


def _multiline(lines: list[tuple[int, str]], directed: bool) -> Listed:
    """Each node with the number of lines that follow it, ``neighbour {'weight': 3.0}``."""
    listed, left, head = Listed(directed), 0, ""
    for number, line in lines:
        word, _, rest = line.partition(" ")
        if not left:
            if not (rest.strip().isdecimal() and len(rest.strip()) < 10):
                raise wrong(number, line, "expected a node and how many of its neighbours follow")
            head, left = word, int(rest)
            listed.node(head)
            continue
        try:
            listed.edge(head, word, data_of(rest) if rest.strip() else None, number)
        except ValueError as error:
            raise wrong(number, line, str(error)) from None
        left -= 1
    if left:
        raise ValueError(f"{left} neighbours of {head} are missing at the end of the file; get it again")
    return listed


def _without_count(rows: list[tuple[int, str, list[str]]]) -> list[tuple[int, str, list[str]]]:
    """The rows without a first line that says how many nodes there are."""
    if len(rows) < 2 or len(rows[0][2]) != 1 or not rows[0][2][0].isdecimal():
        return rows
    heads = {words[0].removesuffix(":") for _, _, words in rows[1:]}
    labels = heads.union(*(words[1:] for _, _, words in rows[1:]))
    counted = any(labels == {str(i) for i in range(k, k + len(labels))} for k in (0, 1))
    if (
        counted
        and rows[0][2][0] == str(len(labels))
        and (rows[0][2][0] not in labels or rows[0][2][0] in heads)
    ):
        return rows[1:]
    return rows
