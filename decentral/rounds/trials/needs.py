"""What a method needs of the matrices that it mixes with, as its traits name it; asked before any work."""

from __future__ import annotations

from decentral.algorithms.traits import Described, traits_of
from decentral.comm.needs import unmet_of
from decentral.errors import UserError
from topologies import Schedule


def unmet(method: Described, schedule: Schedule) -> tuple[str, str] | None:
    """(what the method needs and the schedule is not, the remedy) for the first need that is not met; else None."""
    return unmet_of(traits_of(method).needs, schedule)


def refuse_unmet(method: Described, schedule: Schedule) -> None:
    """Raise UserError for the first need that is not met."""
    missing = unmet(method, schedule)
    if missing is not None:
        raise UserError(f"{type(method).__name__} needs {missing[0]}; {missing[1]}")
