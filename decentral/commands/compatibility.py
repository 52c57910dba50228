"""``decentral list compatibility``: which method can run on which topology, from spectra and from what it needs.

``python -m decentral.commands.compatibility`` writes the table as Markdown: docs/compatibility.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

import topologies
from decentral.algorithms import ALGORITHMS
from decentral.algorithms.traits import Method, Traits, maker_of, traits_of
from decentral.comm import LocalComm
from decentral.comm.plan import MixingPlan
from decentral.rounds.trials.stability import refuses
from topologies import named

WORKERS = 16
_CONDITIONS = (
    "Default settings. Weights: metropolis; uniform where the graph is directed, push for methods that push. "
    "`algorithm.allow_unstable = true` runs what diverges regardless."
)


class Refusal(NamedTuple):
    """``growth`` of differences a round, NaN where something that the method ``needs`` is missing instead."""

    growth: float
    needs: str


def compatibility(n: int = WORKERS) -> dict[str, dict[str, Refusal]]:
    """Method, with its default settings -> topology of n workers that it is refused on -> why."""
    table: dict[str, dict[str, Refusal]] = {name: {} for name in ALGORITHMS}
    for topology in named.constructors():
        place = _Place(named.build(topology, n))
        for name, make in ALGORITHMS.items():
            refusal = place.refusal(make())
            if refusal is not None:
                table[name][topology] = refusal
    return table


class _Place:
    """A topology on which methods are tried one after the other: its workers under each rule of weights, once."""

    def __init__(self, built: Any) -> None:
        self.built = built
        self.workers: dict[str | None, _Workers] = {}

    def refusal(self, method: Method[Any]) -> Refusal | None:
        if maker_of(method):
            if isinstance(self.built, topologies.Schedule):
                return Refusal(float("nan"), "a graph that does not change")
            return Refusal(float("nan"), "an undirected graph") if self.built.is_directed() else None
        own = traits_of(method).weights
        rule = None if own == Traits.weights else own
        if rule not in self.workers:
            self.workers[rule] = _Workers(named.mixing(self.built, rule), check=False)
        return _refusal(method, self.workers[rule])


class _Workers(LocalComm):
    """Workers that keep the plans of all rounds, also of a schedule that never repeats."""

    @property
    def plan(self) -> MixingPlan:
        """See :class:`Mixer`."""
        t: int = self.__dict__.get("t", 0)  # edges may be asked for before the first round
        if t not in self._plans:
            self._plans[t] = self._plan_of(self.schedule.matrix(t))
        return self._plans[t]


def _refusal(method: Method[Any], workers: _Workers) -> Refusal | None:
    refused = refuses(method, workers.schedule, comm=workers)
    if refused is None:
        return None
    growth, where, _ = refused
    # what is needed, without what there is instead
    return Refusal(growth, "" if growth == growth else where.partition(", and ")[0])


def print_compatibility() -> None:
    """The table."""
    title = f"compatibility, {WORKERS} workers"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("method", style="bold", no_wrap=True)
    table.add_column("needs")
    table.add_column("refused on (growth of differences a round)")
    for row in _rows():
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(_CONDITIONS)


def markdown() -> str:
    """docs/compatibility.md."""
    lines = [
        "# Which method can run on which topology",
        "",
        f"{WORKERS} workers. A method is refused where differences between workers grow whatever the learning rate (by "
        "how much a round: the spectral radius of the method's own text on the modes of W), or where something that it "
        f"needs is missing. {_CONDITIONS}",
        "",
        "| method | needs | refused on (growth of differences a round) |",
        "|---|---|---|",
        *("| " + " | ".join((f"`{row[0]}`", *row[1:])) + " |" for row in _rows()),
        "",
        "Written by `python -m decentral.commands.compatibility`.",
    ]
    return "\n".join(lines)


def _rows() -> list[tuple[str, str, str]]:
    """Method, what it needs, and where it is refused: in fewer words, where it is not."""
    every = list(named.constructors())
    rows = []
    for name, refused in compatibility().items():
        needs = "; ".join(dict.fromkeys(refusal.needs for refusal in refused.values() if refusal.needs))
        if 2 * len(refused) > len(every):
            places = "all but " + ", ".join(topology for topology in every if topology not in refused)
        else:
            places = ", ".join(
                topology if refusal.needs else f"{topology} {refusal.growth:.3g}"
                for topology, refusal in refused.items()
            )
        rows.append((name, needs, places or f"none of {len(every)}"))
    return rows


if __name__ == "__main__":
    print(markdown())
