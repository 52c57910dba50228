"""A made-up thing that has a name: its file, and its line in the table of its room."""

from typing import NamedTuple


class Made(NamedTuple):
    """A file and its text; the table's file, the line before which, or after which, ``line`` is added."""

    file: str
    text: str
    table: str
    beside: str
    line: str
