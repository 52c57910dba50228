"""Files written whole or not at all, and a disk that takes no more: one line, and an exit code of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

EXIT_CODE = 4
"""Of a command that could not write, or open one more file."""
PART = ".part"
"""Ends the name of a file that is being written; one that is left over was cut short, and is never read."""

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on the disk, or in its quota"),
    errno.EFBIG: "allow larger files (ulimit -f)",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable, or choose another --out"),
    **dict.fromkeys(
        (errno.ENOENT, errno.ENOTDIR, errno.EISDIR), "the folder was moved or removed: put it back"
    ),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "see that the disk works"),
}
_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EIO}
"""Errors that are the disk's or the system's, wherever they come up."""


class DiskError(OSError):
    """A file of ours could not be written; ``filename`` names it."""


def is_of_disk(error: OSError) -> bool:
    """Whether an error is a :class:`DiskError`, or could be none else's."""
    return isinstance(error, DiskError) or error.errno in _OURS


def words(error: OSError) -> str:
    """What could not be done, why, and the remedy."""
    what = f"{error.filename} cannot be written or read" if error.filename else "a file cannot be written"
    why = (error.strerror or type(error).__name__).lower()
    return f"{what}: {why}; {_REMEDIES.get(error.errno or 0, 'see that it can be')}"


def encoded(text: str) -> bytes:
    """UTF-8, whatever the locale; halves of surrogate pairs, of names that are none, as Python would write them."""
    return text.encode("utf-8", "backslashreplace")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an OSError becomes a :class:`DiskError` that names this file: those of write name none."""
    try:
        yield
    except OSError as error:
        raise DiskError(error.errno, error.strerror or str(error), str(path)) from error


def write_whole(path: Path, content: str | Callable[[BinaryIO], object]) -> None:
    """Write a text, or what ``content`` writes: the file is there whole or not at all, also after a power cut.

    Raises DiskError, and what was there before stays.
    """
    part = path.with_name(path.name + PART)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                if isinstance(content, str):
                    file.write(encoded(content))
                else:
                    content(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
