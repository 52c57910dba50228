"""How many examples of a data set its files hold, by their sizes and headers, without loading them."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path

from decentral.problems.data.data_root import find_file
from decentral.problems.data.file_formats import CIFAR_RECORD
from decentral.problems.data.spoken_digits import TEST_NUMBERS, recordings_in
from decentral.problems.data.usual_files import cifar10_files, mnist_files


def mnist(root: Path) -> tuple[int, ...]:
    """Training and test images, by the headers."""
    return tuple(_images(mnist_files(root, part)[0]) for part in ("train", "t10k"))


def cifar10(root: Path) -> tuple[int, ...]:
    """Training and test images, by the sizes of the files."""
    batches, test = cifar10_files(root)
    return sum(path.stat().st_size for path in batches) // CIFAR_RECORD, test.stat().st_size // CIFAR_RECORD


def a9a(root: Path) -> tuple[int, ...]:
    """Training and test lines."""
    return tuple(_lines(find_file(root, "libsvm", [name], "")) for name in ("a9a", "a9a.t"))


def w8a(root: Path) -> tuple[int, ...]:
    """Lines."""
    return (_lines(find_file(root, "libsvm", ["w8a"], "")),)


def fsdd(root: Path) -> tuple[int, ...]:
    """Recordings for training and for testing, by the names of the files."""
    found = recordings_in(root)
    test = sum(r.number < TEST_NUMBERS for r in found)
    return len(found) - test, test


def _images(path: Path) -> int:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as file:
        return int.from_bytes(file.read(8)[4:], "big")


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in islice(file, 10**7) if line.strip())
