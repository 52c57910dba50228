"""Files of a results folder as they were written, or a refusal in one line: the ways back in from disk.

A file that is read again is checked whole: status.json, the last file of a run, holds the SHA-256 of the others and of
itself; experiment.toml ends in a line with its own. Folders of older versions have none, and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from decentral.disk import encoded
from decentral.errors import UserError

T = TypeVar("T")

STATUS = "status.json"
AGAIN = "run the experiment again with --resume to have it made anew"
"""The remedy for what a run that has ended can write anew from what is left."""
SEAL = "# sha256 "
"""Begins the last line of a text that holds the digest of the lines before it."""
_BLOCK = 1 << 20


def remedy_of(home: Path) -> str:
    """What to do about a damaged file in the folder of one run."""
    return f"remove {home} and run the experiment again with --resume"


def digest_of(path: Path, size: int | None = None) -> Any:
    """The SHA-256 of a file, or of its first ``size`` bytes, as a hash that more can be added to."""
    found, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while block := file.read(_BLOCK if left is None else min(_BLOCK, left)):
            found.update(block)
            left = None if left is None else left - len(block)
    return found


def sealed(text: str) -> str:
    """A text of lines with its digest as the last one, a comment."""
    return f"{text}{SEAL}{hashlib.sha256(encoded(text)).hexdigest()}\n"


def sealed_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table for JSON with its own digest under "sha256"."""
    return {**table, "sha256": _digest_of_table(table)}


def read_text(path: Path, remedy: str, is_sealed: bool = False) -> str:
    """A file's text without its seal, which it must have where ``is_sealed``. UserError, with the remedy, if not."""
    text = _reading(path, remedy, lambda: path.read_text(encoding="utf-8"))
    body, mark, digest = text.rpartition(SEAL)
    if not mark:
        if is_sealed:
            raise _damaged(path, "its last line is gone", remedy)
        return text
    if digest.strip() != hashlib.sha256(encoded(body)).hexdigest():
        raise _damaged(path, "it is not as it was written", remedy)
    return body


def read_toml(path: Path, remedy: str, is_sealed: bool = False) -> dict[str, Any]:
    """A TOML file's table. Raises UserError likewise."""
    text = read_text(path, remedy, is_sealed)
    return _reading(path, remedy, lambda: tomllib.loads(text))


def read_json(path: Path, remedy: str) -> Any:
    """What a JSON file holds. Raises UserError likewise."""
    return _reading(path, remedy, lambda: json.loads(path.read_text(encoding="utf-8")))


def status_of(home: Path) -> dict[str, Any]:
    """How the run in the folder ``home`` ended. Raises UserError if that or a file that it left is damaged."""
    status = _read_status(home, remedy_of(home)) or {}
    _check_files(home, status, remedy_of(home))
    return status


@contextmanager
def understood(path: Path, remedy: str) -> Iterator[None]:
    """Inside, what was read from ``path`` is used: where that has another form than it should, UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _damaged(path, f"{type(error).__name__}: {error}", remedy) from error


def _read_status(home: Path, remedy: str) -> dict[str, Any] | None:
    """How the run in the folder ``home`` ended, checked against its digest; None if it has not ended."""
    path = home / STATUS
    if not path.exists():
        return None
    status: dict[str, Any] = read_json(path, remedy)
    told = isinstance(status, dict) and {"status", "message", "final"} <= status.keys()
    if not told or not isinstance(status["final"], dict):
        raise _damaged(path, "it does not tell how a run ended", remedy)
    digest = status.pop("sha256", None)
    of_old = status.keys() == {"status", "message", "final"}  # which had no digest
    if digest != _digest_of_table(status) and not (digest is None and of_old):
        raise _damaged(path, "it is not as it was written", remedy)
    return status


def _check_files(home: Path, status: Mapping[str, Any], remedy: str) -> None:
    """Raise UserError where a file that the run has left is not as its status tells; one that is gone may be."""
    for name, digest in status.get("files", {}).items():
        path = home / name
        if path.exists() and _digest(path, remedy) != digest:
            raise _damaged(path, "it is not as it was written", remedy)


def _digest(path: Path, remedy: str) -> str:
    return _reading(path, remedy, lambda: str(digest_of(path).hexdigest()))


def _reading(path: Path, remedy: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except RecursionError:
        raise _damaged(path, "it is nested too deeply", remedy) from None
    except (OSError, ValueError) as error:  # of JSON, TOML and UTF-8 too
        why = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, tomllib.TOMLDecodeError):
            why = f"it is not valid TOML: {error}"
        raise _damaged(path, str(why), remedy) from None


def _damaged(path: Path, why: str, remedy: str) -> UserError:
    return UserError(f"{path} is damaged ({why}); {remedy}")


def _digest_of_table(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
