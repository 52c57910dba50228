"""What the ranks of a script tell each other, and the person who started them."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from decentral.comm import Communicator
from decentral.errors import AgreedError, UserError

_SAID = 1_000  # characters of a mistake that ranks tell each other


def agree(comm: Communicator, check: Callable[[], None]) -> None:
    """Raise AgreedError on all ranks if ``check`` raises UserError on one."""
    mistake = ""
    try:
        check()
    except UserError as error:
        mistake = str(error)
    refuse_together(tell(comm, mistake))


def refuse_together(mistakes: list[str]) -> None:
    """Raise AgreedError on every rank for the first of all ranks' mistakes, if there is one ("" is none)."""
    found = [mistake for mistake in mistakes if mistake]
    if found:
        raise AgreedError(found[0])


def tell(comm: Communicator, text: str) -> list[str]:
    """The texts of all workers, cut to 1,000 bytes, on every rank."""
    row = np.zeros((comm.h, _SAID), dtype=np.uint8)
    said = text.encode()[:_SAID]
    row[0, : len(said)] = list(said)
    return [bytes(other).rstrip(b"\0").decode(errors="ignore") for other in comm.observe(row)]


def say(rank: int, text: str) -> None:
    """A line on standard error, of rank 0 for all."""
    if rank == 0:
        print(f"decentral: {' '.join(text.split())}", file=sys.stderr, flush=True)
