"""Standard output and error as they may be: closed, full, a pipe that nobody reads, or of few characters.

Nothing of that ends a command: signs that the encoding lacks are replaced by their like, and what cannot be written is
dropped. How standard output failed is told at the end, by a line and the exit code.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_LIKE = str.maketrans(
    "─━│·…–—×→←≤≥✓✗•′Σρµλσ∞", "--|.---x><<>vxo'SpulSo"
)  # each is one cell wide, so tables stay
_PIPE = 128 + 13  # as a shell tells of SIGPIPE


def replaced(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: characters of the same width that ASCII has, or "?"."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_plain, text)), error.end


def _plain(sign: str) -> str:
    found = unicodedata.normalize("NFKD", sign.translate(_LIKE))[:1]
    return found if found.isascii() and found else "?"


codecs.register_error("decentral", replaced)


class _Stream:
    """A text stream whose first error is kept, and after which nothing is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """As the stream's."""
        self._try(self._stream.flush)

    def _try(self, do: Any, *args: Any) -> None:
        if self.error is None:
            try:
                do(*args)
            except OSError as error:
                self.error = error
                with suppress(OSError):  # what is buffered has to go somewhere at the end of the process
                    devnull = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(devnull, self._stream.fileno())
                    os.close(devnull)


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, standard output and error are as this file says. Raises SystemExit where standard output failed."""
    before = sys.stdout, sys.stderr
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with suppress(OSError):
                stream.reconfigure(errors="decentral")
    out, err = _Stream(sys.stdout), _Stream(sys.stderr)
    sys.stdout, sys.stderr = out, err
    code: Any = 0
    try:
        yield
    except SystemExit as end:
        code = end.code
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
    if out.error is not None and not code:
        if out.error.errno == errno.EPIPE:
            code = _PIPE
        else:
            raise out.error
    if code:
        raise SystemExit(code)


def _open_closed() -> None:
    """Closed streams lead to nowhere: else the next file that is opened would get their number, and their text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
