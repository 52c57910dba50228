"""Which rank hosts which part of a run."""

from __future__ import annotations

from decentral.errors import UserError


def hosts(parts: int, ranks: int, said: str) -> list[int]:
    """The rank of each part, by number: neighbouring ones share one. Raises UserError if more ranks than parts.

    ``said``: how the file says how many parts there are, as in "stages.count = 2".
    """
    if ranks > parts:
        raise UserError(f"{said} but MPI has {ranks} ranks; launch {parts} ranks at the most")
    return [number * ranks // parts for number in range(parts)]
