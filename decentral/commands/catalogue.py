"""``decentral list``: everything that has a name, with the first line of what it says of itself. No torch."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import topologies
from decentral.algorithms import ALGORITHMS
from decentral.algorithms.asynchronous import ASYNCHRONOUS
from decentral.errors import UserError, nearest
from decentral.optimizers import OPTIMIZERS, SCHEDULES
from decentral.problems import PROBLEMS
from decentral.problems.assistants import ASSISTANTS
from decentral.problems.data import SOURCES, partial
from decentral.report.kinds import KINDS
from decentral.tables import schema
from topologies import named
from topologies.wording import shown

COMPATIBILITY = "compatibility"
IMPORTING_TORCH = {
    "compressors": "decentral.comm.compression:LINKS",
    "programs": "decentral.stages.programs:PROGRAMS",
    "heads": "decentral.stages.heads:HEADS",
}
"""Further kinds, which are listed when they are asked for."""
_WITHOUT_KEYS = ("weights", "data", "figures")

_GIVEN = {name: None for name in ("n", "shape", "classes", "layer", "shapes")}  # by the run, not by the table


def catalogue() -> dict[str, Mapping[str, Any]]:
    """Kind -> name -> what bears it."""
    return {
        "algorithms": {**ALGORITHMS, **ASYNCHRONOUS},
        "topologies": named.constructors() | named.READERS,
        "weights": topologies.WEIGHTS,
        "problems": PROBLEMS,
        "optimizers": OPTIMIZERS,
        "schedules": SCHEDULES,
        "assistants": ASSISTANTS,
        "data": {name: source.about for table in SOURCES.values() for name, source in table.items()},
        "figures": KINDS,
    }


def print_catalogue(what: str | None) -> None:
    """Print one kind, or all. Raises UserError for a kind that is not there."""
    kinds = catalogue()
    if what == COMPATIBILITY:
        from decentral.commands.compatibility import print_compatibility

        print_compatibility()
        return
    if what in IMPORTING_TORCH:
        kinds[what] = pkgutil.resolve_name(IMPORTING_TORCH[what])
    if what is not None and what not in kinds:
        raise UserError(
            f"there is no list of {shown(what)}; {nearest(what, [*kinds, *IMPORTING_TORCH, COMPATIBILITY])}"
        )
    console = Console()
    for kind in [what] if what else kinds:
        table = Table(title=kind, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("name", style="bold", no_wrap=True)
        table.add_column("what it is")
        if kind not in _WITHOUT_KEYS:
            table.add_column("keys = defaults", style="dim")
        for name, thing in kinds[kind].items():
            table.add_row(name, *map(escape, _about(kind, name, thing)))
        console.print(table)
        console.print()
    if what is None:
        console.print("for links that compress also `decentral list compressors`")
        console.print("for layer-parallel runs also `decentral list programs` and `decentral list heads`")
        console.print(f"which method diverges on which topology: `decentral list {COMPATIBILITY}`")


def _about(kind: str, name: str, thing: Any) -> list[str]:
    if isinstance(thing, str):
        return [f"{thing}; {here}" if kind == "data" and (here := partial(name)) else thing]
    first = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    if kind == "weights":
        return [
            first or f"(I + W) / 2 for the W of {name.removeprefix('lazy-').replace('lazy', 'metropolis')}."
        ]
    return [first] if kind in _WITHOUT_KEYS else [first, _keys(thing)]


def _keys(thing: Callable[..., Any]) -> str:
    return ", ".join(
        k if default in (..., None) else f"{k}={_toml(default)}"
        for k, (_, default) in schema(thing, _GIVEN).items()
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value) or '""'
