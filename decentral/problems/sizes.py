"""What a problem's sizes imply, refused before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.errors import UserError
from topologies.room import refuse_beyond_room
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.problems.capabilities import Sized


MOST_LAYERS = 2_000


def check_layers(**counts: int) -> None:
    """Refuse no layers, and more than anything could be trained through."""
    for key, count in counts.items():
        if not 1 <= count <= MOST_LAYERS:
            raise ValueError(f"{key} = {shown(count)} must be from 1 to {MOST_LAYERS:,}")


def refuse_models(problem: Sized, workers: int, itemsize: int, vectors: int = 1) -> None:
    """Raise UserError where so many hosted workers have no room: of each ``vectors`` of d numbers, and its data."""
    d = problem.parameters()
    least = workers * d * itemsize * vectors + problem.least_bytes(workers, itemsize)
    of = "a model" if workers == 1 else f"{workers:,} workers with models"
    refuse_size(least, f"[problem] {of} of {shown(d)} parameters", "make it smaller")


def refuse_size(least_bytes: float, what: str, remedy: str) -> None:
    """Raise UserError where ``what`` takes more memory than there is."""
    try:
        refuse_beyond_room(least_bytes, what, remedy)
    except ValueError as error:
        raise UserError(str(error)) from None
