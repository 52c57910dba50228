"""How a command ends that could not do what it was asked: one line, and the exit code that tells why."""

from __future__ import annotations

from typing import NamedTuple

from decentral import disk
from decentral.allocator import out_of_memory
from decentral.errors import UserError
from decentral.runs import stopping
from topologies.wording import LONGEST_VALUE, cut


class Ending(NamedTuple):
    """The line on standard error, and the code."""

    text: str
    code: int


def ending_of(error: BaseException) -> Ending | None:
    """Of a mistake of the user, a signal, a disk or a memory that is full; None for any other error, a fault of code.

    Codes: 2 and what a UserError says; 130, 138, 143 for signals; 4 for the disk.
    """
    if isinstance(error, UserError):
        return Ending(str(error), error.code)
    if isinstance(error, KeyboardInterrupt):
        return Ending(f"{stopping.words(error)} before anything was written", stopping.exit_code(error))
    if isinstance(error, OSError) and disk.is_of_disk(error):
        return Ending(disk.words(error), disk.EXIT_CODE)
    if out_of_memory(error):
        said = cut((str(error).splitlines() or [""])[0], 2 * LONGEST_VALUE)
        return Ending(f"out of memory ({said}); use a smaller model, fewer workers, or smaller batches", 2)
    return None
