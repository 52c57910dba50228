"""Mistakes of the user that all ranks learn of: rank 0 says the first one, the others end silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from decentral.errors import UserError

if TYPE_CHECKING:
    from decentral.comm.world import World

T = TypeVar("T")


def together(world: World, make: Callable[[], T]) -> T:
    """What ``make`` gives on this rank. If it raises UserError on any, rank 0 raises the first and the others end."""
    made, mistake = None, ""
    try:
        made = make()
    except UserError as error:
        mistake = str(error)
    mistakes = [text for text in world.agree(mistake) if text]
    if not mistakes:
        return made  # type: ignore[return-value]
    if world.rank == 0:
        raise UserError(mistakes[0])
    raise SystemExit(2)


def on_root(world: World, make: Callable[[], T]) -> T:
    """What ``make`` gives on rank 0, on every rank (it pickles); a UserError as in :func:`together`."""

    def tried() -> tuple[str, T | None]:
        try:
            return "", make()
        except UserError as error:
            return str(error), None

    mistake, made = world.from_root(tried)
    if not mistake:
        return made  # type: ignore[return-value]
    if world.rank == 0:
        raise UserError(mistake)
    raise SystemExit(2)
