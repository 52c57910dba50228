"""Schedules that go by the round alone; schedules that scale the learning rate decay by one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decentral.optimizers.schedules import Schedule
from decentral.tables import fields_of, named
from topologies.places import all_loaded

DECAYS: dict[str, type[Schedule]] = all_loaded(
    {
        "constant": "decentral.optimizers.schedules:Constant",
        "step": "decentral.optimizers.schedules:Step",
        "cosine": "decentral.optimizers.schedules:Cosine",
        "polynomial": "decentral.optimizers.schedules:Polynomial",
        "inverse": "decentral.optimizers.inverse:Inverse",
    }
)
"""By name, as ``[schedule] name = ...`` and ``decay = ...`` have it."""


def decay_of(given: str | Mapping[str, Any]) -> Schedule:
    """The decay of a name, or of a table with its name and its keys. Raises UserError that names the key."""
    table = {"name": given} if isinstance(given, str) else dict(given)
    decay: Schedule = named(table, "schedule.decay", DECAYS)
    return decay


def table_of(decay: Schedule) -> dict[str, Any]:
    """The inverse of :func:`decay_of`, with every default written out."""
    name = next(name for name, kind in DECAYS.items() if kind is type(decay))
    return {"name": name, **fields_of(decay)}
