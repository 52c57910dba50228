"""Blocks of columns, or of rows, of (h, d) that stay in cache.

About half a million elements a block: a few such arrays fit in a last-level cache. With very many workers a block keeps
some hundred columns all the same, because shorter pieces of rows cost more than cache misses do. Blocks of rows are
larger: what looks at whole rows makes many small operations a block, between which threads wait for one another.
"""

from __future__ import annotations

from itertools import pairwise

_ELEMENTS, _COLUMNS = 1 << 19, 192
_ELEMENTS_OF_ROWS = 1 << 21
MOST_BLOCK_BYTES = 8 * _ELEMENTS
"""Of a block of columns in float64, where there are not very many workers."""


def block_width(h: int, d: int) -> int:
    """Columns a block at the most."""
    return max(_ELEMENTS // h, min(_COLUMNS, d))


def block_height(h: int, d: int, threads: int) -> int:
    """Rows a block at the most, of whole rows; where there is work enough for several threads, each has a block."""
    share = h if h * d <= _ELEMENTS else -(-h // threads)
    return min(share, max(1, _ELEMENTS_OF_ROWS // d))


def column_blocks(columns: slice, width: int) -> list[slice]:
    """The columns in the fewest blocks of at most ``width``, of equal size but for one column."""
    total = columns.stop - columns.start
    pieces = -(-total // width)
    edges = [columns.start + total * i // pieces for i in range(pieces + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]
