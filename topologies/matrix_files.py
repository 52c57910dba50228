"""Mixing matrices from files; the suffix names the format. Headers are checked before anything is unpacked."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topologies.array_files import check_shape, read_npy, read_npz
from topologies.deferred import Deferred
from topologies.matrix_tables import read_table
from topologies.text_files import read_text, refused
from topologies.wording import one_line, reason, shown

if TYPE_CHECKING:
    from scipy import io
else:
    io = Deferred("scipy.io")

_ENTRY = re.compile(
    r"(?:\d{1,9}[ \t]+\d{1,9}(?:[ \t]+([-+.\deE]{1,400}))?|([-+.\deE]{1,400}))[ \t]*", re.ASCII
)


def read_matrix(path: str | os.PathLike[str]) -> Any:
    """Matrix of a .npy, .npz (scipy sparse, or one numpy array), .mtx (Matrix Market), .csv or .txt file.

    Raises ValueError, one line that names the file, for what is no square matrix of real numbers that fits the
    limits of :mod:`topologies.array_files`.
    """
    path = Path(path)
    reader = _MATRICES.get(path.suffix.lower())
    if reader is None:
        suffixes = ", ".join(_MATRICES)
        raise ValueError(
            one_line(f"{path}: no matrix format has the suffix {shown(path.suffix)}; use {suffixes}")
        )
    if not os.path.isfile(path):  # a name that is too long is none
        raise refused(path, "no such file", "a mixing matrix")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, on what is refused below
            return reader(path)
    except Exception as error:  # a library's parser fails in any way on a damaged file
        raise refused(path, reason(error), f"a mixing matrix as {path.suffix}") from None


def _read_mtx(path: Path) -> Any:
    """scipy's reader takes it for granted that a file is what its header says: so each line is looked at before."""
    text = read_text(path)
    lines = text.split("\n")
    head = lines[0].casefold().split()
    if len(head) != 5 or head[:2] != ["%%matrixmarket", "matrix"] or head[2] not in ("coordinate", "array"):
        raise ValueError("line 1 is no header '%%MatrixMarket matrix coordinate real general'")
    if head[3] not in ("real", "double", "integer", "pattern") or head[4] not in ("general", "symmetric"):
        raise ValueError(f"line 1 says {shown(' '.join(head[3:]))}; save it as 'real general'")
    body = [(i, line) for i, line in enumerate(lines[1:], 2) if line.strip() and line[0] != "%"]
    sizes = re.findall(r"\d{1,12}", body[0][1], re.ASCII) if body else []
    sparse_form = head[2] == "coordinate"
    if not body or len(sizes) != 2 + sparse_form or body[0][1].split() != sizes:
        raise ValueError("it has no line with its sizes after the comments")
    rows, columns = int(sizes[0]), int(sizes[1])
    count = int(sizes[2]) if sparse_form else rows * columns
    if not sparse_form and head[4] == "symmetric":
        count = rows * (rows + 1) // 2
    check_shape((rows, columns), count if sparse_form else None)
    if len(body) - 1 != count:
        raise ValueError(f"its header says {count} entries, and {len(body) - 1} follow")
    words = 2 + (head[3] != "pattern") if sparse_form else 1
    for number, line in body[1:]:
        entry = line.split()
        if len(entry) != words or not _ENTRY.fullmatch(line.strip()):
            raise ValueError(f"line {number} is {shown(line)}; expected an entry of numbers")
        if sparse_form and not (0 < int(entry[0]) <= rows and 0 < int(entry[1]) <= columns):
            raise ValueError(
                f"line {number} is {shown(line)}, outside of {rows} x {columns}; rows count from 1"
            )
        float(entry[-1])
    return io.mmread(BytesIO(text.encode()))


_MATRICES: dict[str, Callable[[Path], Any]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".mtx": _read_mtx,
    ".csv": lambda path: read_table(read_text(path), table=True),
    ".txt": lambda path: read_table(read_text(path)),
}
