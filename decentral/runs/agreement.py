"""Mistakes and errors that all ranks learn of: rank 0 says the first one, the others end silently.

Where ranks cannot be asked any more, one that ends is the end of all.
"""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn, TypeVar

from decentral.comm.world import World, find_world
from decentral.errors import AgreedError, UserError
from decentral.runs.ending import ending_of
from topologies.wording import shown

T = TypeVar("T")

_FRAMES = 6  # of a traceback, the latest
_ERROR = 1


class AgreedExit(SystemExit):
    """The silent end of a rank that all know of."""


class Trouble(NamedTuple):
    """What went wrong on a rank, the exit code that it should end with, and where the code has a fault, where."""

    text: str
    code: int
    trace: str = ""


def together(world: World, make: Callable[[], T]) -> T:
    """What ``make`` gives on this rank. What ends it on any ends all: rank 0 raises AgreedError, the others end."""
    made, trouble = _tried(world, make)
    everyone = world.agree(trouble)
    found = [(rank, each) for rank, each in enumerate(everyone) if each]
    if not found:
        return made  # type: ignore[return-value]
    rank, first = found[0]
    alike = len(found) == world.ranks and len({each.text for _, each in found}) == 1
    _end(world, first if alike else first._replace(text=f"rank {rank}: {first.text}"))


def on_root(world: World, make: Callable[[], T]) -> T:
    """What ``make`` gives on rank 0, on every rank (it pickles); what ends it, as in :func:`together`."""
    made, trouble = world.from_root(lambda: _tried(world, make))
    if not trouble:
        return made  # type: ignore[return-value]
    _end(world, trouble)


@contextmanager
def all_ranks() -> Iterator[World]:
    """The ranks of this command. What ends one within it, and is not agreed on, ends all, with a line that names it."""
    world = find_world(shlex.join(sys.argv[1:]))
    try:
        yield world
    except (AgreedError, AgreedExit):
        raise
    except BaseException as error:
        if world.ranks == 1 and not isinstance(error, SystemExit):
            raise
        time.sleep(0.5 * (world.rank > 0))  # where all fail alike, the first one speaks for them
        text, code, trace = _trouble(error)
        world.abort(text, code, trace)


def _tried(world: World, make: Callable[[], T]) -> tuple[T | None, Trouble | None]:
    try:
        return make(), None
    except BaseException as error:
        if world.ranks == 1 and not isinstance(error, UserError | SystemExit):
            raise
        return None, _trouble(error)


def _trouble(error: BaseException) -> Trouble:
    """``error`` in words; with the latest frames where it is neither the user's mistake nor MPI's refusal."""
    if (foreseen := ending_of(error)) is not None:
        return Trouble(*foreseen)
    if isinstance(error, SystemExit):
        return Trouble(
            f"the code that it runs called sys.exit({shown(error.code or 0)}); let it return", _ERROR
        )
    of_mpi = type(error).__module__ == "mpi4py.MPI"
    trace = "" if of_mpi else "".join(traceback.format_exception(error, limit=-_FRAMES))
    return Trouble(f"{type(error).__name__}: {error}".removesuffix(": "), _ERROR, trace)


def _end(world: World, trouble: Trouble) -> NoReturn:
    if world.rank:
        raise AgreedExit(trouble.code)
    sys.stderr.write(trouble.trace)
    raise AgreedError(trouble.text, trouble.code)
