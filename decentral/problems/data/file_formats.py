"""Parsers of the public file formats: gzip IDX (MNIST), CIFAR-10 binary records, LIBSVM text.

Each reads one file into numpy arrays and refuses what the format does not allow with a one-line
`UserError` that names the file, what was expected and what was found. No scaling happens here.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from decentral.errors import UserError
from decentral.problems.data.libsvm_lines import first_wrong_line

Array = np.ndarray[Any, Any]

CIFAR_RECORD = 1 + 3 * 32 * 32
"""Bytes of one CIFAR-10 record: a label, then 32x32 red, green and blue bytes, row by row."""

MOST_BYTES = 1 << 30
"""Of the images in one file, unpacked."""


def read_idx(path: Path, dims: int) -> Array:
    """The uint8 array of ``dims`` dimensions in an IDX file, gzip-compressed or plain.

    Raises `UserError` for a broken gzip stream, another magic number, or a length that the header's shape does not
    give; no more is unpacked than that.
    """
    header = 4 + 4 * dims
    with _opened(path) as file:
        raw = _read(file, path, header)
        if len(raw) < header:
            raise UserError(f"{path}: expected an IDX header of {header} bytes, found a file of {len(raw)}")
        magic, expected = int.from_bytes(raw[:4], "big"), 0x0800 + dims
        if magic != expected:
            _read(file, path, 1 << 20)  # a broken gzip stream is the better reason
            raise UserError(
                f"{path}: expected IDX magic number {expected} (bytes, {dims} dimensions), found {magic}"
            )
        shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=dims, offset=4))
        size = math.prod(shape)
        if size > MOST_BYTES:
            raise UserError(
                f"{path}: its header says shape {shape}, {size:,} bytes; the most is {MOST_BYTES:,}"
            )
        raw = _read(file, path, size + 1)
        if len(raw) != size:
            found = f"{header + len(raw)}{' and more' if len(raw) > size and _read(file, path, 1) else ''}"
            raise UserError(
                f"{path}: expected {header + size} bytes (uncompressed) for shape {shape}, "
                f"found {found}; get the file again"
            )
    return np.frombuffer(raw, np.uint8).reshape(shape)


def read_cifar10(path: Path) -> tuple[Array, Array]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) uint8 of one file of CIFAR-10's binary version.

    Raises `UserError` if the length is not a positive multiple of 3073 bytes or a label exceeds 9.
    """
    with _opened(path) as file:
        raw = _read(file, path, MOST_BYTES + 1)
    if not raw or len(raw) % CIFAR_RECORD or len(raw) > MOST_BYTES:
        raise UserError(
            f"{path}: expected a positive multiple of {CIFAR_RECORD} bytes (one record an image), "
            f"found {len(raw)} bytes; get the binary version again"
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, CIFAR_RECORD)
    check_labels(path, records[:, 0], classes=10)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def read_libsvm(path: Path, features: int) -> tuple[Array, Array]:
    """Dense features (N, features) float32 and labels (N,) int64 in {0, 1} of LIBSVM text.

    The file's labels must be -1 or +1 and become 0 and 1. ``features`` is given because a file
    need not use its highest feature. Raises `UserError` for text that does not parse, for an index
    outside 1..features and for another label. Parsing is scikit-learn's, imported here: it takes 1 s.
    """
    from sklearn.datasets import load_svmlight_file

    try:
        x, y = load_svmlight_file(str(path), n_features=features, dtype=np.float32, zero_based=False)
    except (ValueError, OSError, EOFError, OverflowError, MemoryError, zlib.error) as error:
        where = "" if isinstance(error, OSError) else first_wrong_line(path, features)
        raise UserError(f"{path}: not LIBSVM text with {features} features: {where or error}") from error
    if not len(y):
        raise UserError(f"{path}: expected at least one line 'label index:value ...', found none")
    wrong = np.flatnonzero((y != -1) & (y != 1))
    if len(wrong):
        raise UserError(
            f"{path}: expected labels -1 and +1, found {y[wrong[0]]:g} in example {wrong[0]}, counted from 0"
        )
    if not np.isfinite(x.data).all():
        raise UserError(f"{path}: expected finite values of float32: {first_wrong_line(path, features)}")
    return x.toarray(), (y > 0).astype(np.int64)


def check_labels(path: Path, labels: Array, classes: int) -> None:
    """Raise `UserError` unless every one of the labels (N,) lies in 0..classes-1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"{path}: expected labels 0 to {classes - 1}, found {labels[wrong[0]]} in record {wrong[0]}"
        )


def _opened(path: Path) -> IO[bytes]:
    """The file, decompressed if it starts as a gzip stream does."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); see to its permissions") from error


def _read(file: IO[bytes], path: Path, most: int) -> bytes:
    """The next ``most`` bytes, or what is left. Raises `UserError` for a broken stream."""
    try:
        return file.read(most)
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path}: cannot read it to its end ({error}); get the file again") from error
