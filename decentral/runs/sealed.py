"""A checkpoint's file: what torch.save writes, a zip archive, with its SHA-256 as the archive's comment.

So any reader of torch or zip files reads it, and this one knows that it is whole before it is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from decentral.errors import UserError
from decentral.report.stored import digest_of

_MARK = b"sha256 "
_LONG = len(_MARK) + 64
_NO_COMMENT, _COMMENT = (0).to_bytes(2, "little"), _LONG.to_bytes(2, "little")


def save(state: Mapping[str, Any], file: BinaryIO) -> None:
    """Write a state. Raises OSError where the file cannot take it."""
    through = _Through(file)
    try:
        torch.save(dict(state), through)  # type: ignore[arg-type]
    except Exception:
        if through.error is None:
            raise
    if through.error is not None:
        raise through.error
    file.seek(-len(_COMMENT), 2)
    file.write(_COMMENT + _MARK + through.digest.hexdigest().encode())


def load(path: Path) -> dict[str, Any]:
    """A state, its tensors mapped from the file. Raises UserError where that is not what :func:`save` wrote."""
    try:
        _check(path)
        whole: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        if not isinstance(whole, dict):
            raise ValueError("no state")
    except Exception as error:
        raise UserError(f"{path} is no checkpoint, or damaged; delete it to start that run anew") from error
    return whole


def _check(path: Path) -> None:
    size = path.stat().st_size - _LONG
    with path.open("rb") as file:
        file.seek(max(0, size - len(_COMMENT)))
        end = file.read()
    digest = digest_of(path, size - len(_COMMENT))
    digest.update(_NO_COMMENT)
    if end != _COMMENT + _MARK + digest.hexdigest().encode():
        raise ValueError("the digest is another")


class _Through:
    """A file that hashes what goes through it.

    torch writes from C++, where an error of a full disk would end the process; so it is kept, for later.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Hash and write; after an error nothing more."""
        size = memoryview(data).nbytes
        if self.error is None:
            self.digest.update(data)
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Nothing is kept back here."""
