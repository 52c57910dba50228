"""Arrays in numpy's files, .npy and .npz: what a header declares is checked before it is unpacked or built.

At most 100,000 workers, 2^27 numbers of a dense matrix (1 GiB) and 2^25 stored ones of a sparse matrix.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy import sparse

from topologies.listed import MOST_NODES
from topologies.wording import shown

MOST_DENSE, MOST_STORED = 1 << 27, 1 << 25

_SPARSE = {
    b"csr": ("data", "indices", "indptr"),
    b"csc": ("data", "indices", "indptr"),
    b"coo": ("data", "row", "col"),
    b"dia": ("data", "offsets"),
}
"""The arrays of each of scipy's formats, beside ``format`` and ``shape``."""


def check_shape(shape: tuple[int, ...], stored: int | None = None) -> None:
    """Raise ValueError for a matrix that is too large; ``stored``: how many numbers it holds if it is sparse."""
    size = " x ".join(map(str, shape))
    if max(shape, default=0) > MOST_NODES:
        raise ValueError(f"its header says {size}; at most {MOST_NODES:,} workers are read from a file")
    count, most = (math.prod(shape), MOST_DENSE) if stored is None else (stored, MOST_STORED)
    if count > most:
        raise ValueError(f"its header says {size} with {count:,} numbers; the most is {most:,}")


def read_npy(path: Path) -> Any:
    """The matrix of a .npy file."""
    with path.open("rb") as file:
        shape, dtype = _header(file)
        check_shape(shape)
        have, need = path.stat().st_size - file.tell(), math.prod(shape) * dtype.itemsize
        if have != need:
            raise ValueError(f"its header says {need:,} bytes of numbers, and {have:,} follow; save it again")
        file.seek(0)
        return np.load(file, allow_pickle=False)


def read_npz(path: Path) -> Any:
    """The matrix of scipy's ``save_npz`` or the one array of numpy's ``savez``."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError("it is no .npz archive; write it with scipy.sparse.save_npz") from None
    with archive:
        names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
        if "format" not in names:
            if len(names) != 1:
                raise ValueError(f"it holds the arrays {shown(names)}; save one matrix")
            return _member(archive, names[0], dense=True)
        kind = bytes(np.asarray(_member(archive, "format", text=True).item(), dtype="S"))
        if kind not in _SPARSE:
            raise ValueError(f"its sparse format is {shown(kind.decode('latin-1'))}; save it as csr")
        shape = tuple(int(n) for n in _member(archive, "shape").ravel()[:3])
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"its shape is {shown(shape)}; save a square matrix")
        check_shape(shape, 0)
        arrays = {name: _member(archive, name) for name in _SPARSE[kind]}
    return _sparse(kind, shape, arrays)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version[0]](file)
    except Exception as error:  # a header is an expression of Python, and fails as one
        raise ValueError(f"its header cannot be read ({error}); write it with numpy.save") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects (a pickle), which are not loaded; save real numbers")
    return shape, dtype


def _member(archive: zipfile.ZipFile, name: str, dense: bool = False, text: bool = False) -> Any:
    """An array of an archive, of so many bytes as its header says and no more."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it holds no array {name}; write it with scipy.sparse.save_npz") from None
    with archive.open(info) as file:
        shape, dtype = _header(file)
        if dense:
            check_shape(shape)
        elif math.prod(shape) > MOST_DENSE:
            raise ValueError(f"{name} has {math.prod(shape):,} numbers; the most is {MOST_DENSE:,}")
        if not text and dtype.kind not in "biuf":
            raise ValueError(f"{name} holds {dtype}; it must hold real numbers")
        need = math.prod(shape) * dtype.itemsize
        if text and need > 100:
            raise ValueError(f"{name} has {need:,} bytes; it should be a short text")
        have = info.file_size - file.tell()
    if have != need:
        raise ValueError(f"{name} says {need:,} bytes of numbers, and {have:,} follow; save it again")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _sparse(kind: bytes, shape: tuple[int, ...], arrays: dict[str, Any]) -> Any:
    """Raises ValueError for indices that point outside: scipy would follow them."""
    data = arrays["data"]
    check_shape(shape, data.size)
    indices = [array for name, array in arrays.items() if name != "data"]
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in indices):
        raise ValueError("its indices are no lists of integers; write it with scipy.sparse.save_npz")
    wrong = "its {} do not fit {} x {}; write it with scipy.sparse.save_npz"
    if kind == b"dia":
        if data.ndim != 2 or len(data) != indices[0].size or np.unique(indices[0]).size != indices[0].size:
            raise ValueError(wrong.format("offsets", *shape))
        return sparse.dia_array((data, indices[0].astype(np.int64)), shape=shape)
    first, second = indices
    if kind == b"coo":
        rows, columns = first, second
    else:
        lines = shape[0] if kind == b"csr" else shape[1]
        steps = np.diff(second.astype(np.int64)) if second.size == lines + 1 else np.array([-1])
        if steps.min() < 0 or second[0] != 0 or int(second[-1]) != first.size:
            raise ValueError(wrong.format("indptr", *shape))
        major = np.repeat(np.arange(lines), steps)
        rows, columns = (major, first) if kind == b"csr" else (first, major)
    for one, size in ((rows, shape[0]), (columns, shape[1])):
        if one.size != data.size or data.ndim != 1 or (one.size and (one.min() < 0 or one.max() >= size)):
            raise ValueError(wrong.format("indices", *shape))
    return sparse.coo_array((data, (rows.astype(np.int64), columns.astype(np.int64))), shape=shape)
