"""The lines of a text file as editors, spreadsheets and other programs write them, and the fields of a line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from topologies.wording import LONGEST_LINE, one_line, shown

MOST_BYTES = 1 << 29
"""Of a text file."""

_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
)  # fmt: skip


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, its lines ended by a line feed.

    Raises ValueError for another encoding, NUL bytes and a file that is too large, and OSError.
    """
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"it has {size:,} bytes; the most is {most:,}")
    raw = path.read_bytes()
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            raise ValueError(f"its encoding is {encoding}; save it as UTF-8")
    if b"\0" in raw:
        line = 1 + raw[: raw.index(b"\0")].count(b"\n")
        raise ValueError(
            f"line {line} holds NUL bytes, as UTF-16 and files that are no text do; save it as UTF-8"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + len(re.findall(rb"\r\n|\r|\n", raw[: error.start]))
        byte = f"the byte 0x{raw[error.start]:02x}"
        raise ValueError(f"line {line} holds {byte}, which is no UTF-8; save the file as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def statements(text: str, table: bool = False) -> Iterator[tuple[int, str]]:
    """Number and text of each line that says something, without its comment.

    ``#`` starts a comment anywhere, ``%`` and ``//`` do as or before a word; in a ``table``, as spreadsheets write
    it, all three do at the beginning of a line only.
    """
    comment = re.compile(r"^\s*(?:#|%|//).*" if table else r"(?:#|(?:^|(?<=\s))(?:%|//)).*")
    for number, line in enumerate(text.split("\n"), start=1):
        said = comment.sub("", line, count=1).strip()
        if said:
            yield number, said


def fields(line: str, spaces: bool = False) -> list[str]:
    """The fields of a line, between semicolons, else commas, else tabs, else white space; quotes are taken off.

    ``spaces``: whether fields between separators may hold white space without quotes. Raises ValueError, to go on
    "line 3 is ...".
    """
    if line.count('"') % 2:
        raise ValueError("a quotation mark is open; close it")
    bare = re.sub(r'"[^"]*"', '""', line)
    separator = next((one for one in ";,\t" if one in bare), "")
    if not separator:
        return next(csv.reader([" ".join(line.split())], delimiter=" ")) if '"' in line else line.split()
    for field in bare.split(separator):
        if any(other in field for other in ";,") or (not spaces and len(field.split()) > 1):
            raise ValueError(
                "its separators are mixed; use one, quote fields that hold another, and write decimals with a point"
            )
    return [field.strip() for field in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]


def wrong(number: int, line: str, why: str = "") -> ValueError:
    """What is raised for a line: its number, its text, and where they do not say it all, why and what to do."""
    return ValueError(f"line {number} is {shown(line.strip())}" + (f": {why}" if why else ""))


def refused(path: Path, why: str, expected: str) -> ValueError:
    """What is raised for a file: one line with its path, why, and where there is room what it should have been."""
    text = f"{path}: {why}; expected {expected}"
    return ValueError(one_line(text if len(text) <= LONGEST_LINE else f"{path}: {why}"))
