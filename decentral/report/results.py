"""An experiment's results as typed values: its runs, what was chosen in each, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Value = float | str
Array = NDArray[np.float64]
MISSING = "–"  # the value of a field that a run does not have


class Titled(str):
    """A name out of a file, equal to its text; ``words``: how people write it."""

    words: str

    def __new__(cls, name: str, words: str) -> Titled:
        """The name, with its words."""
        made = super().__new__(cls, name)
        made.words = words
        return made


@dataclass(frozen=True)
class Run:
    """One run: what was chosen, how it ended, and its columns over the rounds."""

    id: str
    status: str
    message: str
    seed: int
    fields: Mapping[str, Value]
    final: Mapping[str, float]
    columns: Mapping[str, Array]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the run reached its last round; only such runs enter a mean."""
        return self.status == "finished"

    def field(self, name: str) -> Value | None:
        """The value of a dotted field, swept or fixed, or a final metric; ``None`` where the run has none such."""
        if name in self.fields:
            return self.fields[name]
        if name in self.final:
            return self.final[name]
        value: Any = self.config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None if value is None or isinstance(value, Mapping) else str(value)
        return float(value)


@dataclass(frozen=True)
class Experiment:
    """All runs of one folder, in the order of ``results.csv``."""

    folder: Path
    name: str
    question: str
    command: str
    config: Mapping[str, Any]
    swept: tuple[str, ...]
    metrics: tuple[str, ...]
    runs: tuple[Run, ...]
    unfinished: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that some run recorded over its rounds."""
        return tuple(dict.fromkeys(c for run in self.runs for c in run.columns))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were run, ascending."""
        return tuple(sorted({run.seed for run in self.runs}))


def merge(experiments: Sequence[Experiment]) -> Experiment:
    """Several experiments as one, with ``experiment`` as a swept field before those that differ."""
    if len(experiments) == 1:
        return experiments[0]
    names = [e.name for e in experiments]
    if len(set(names)) < len(names):
        names = [str(e.folder) for e in experiments]
    fields = list(dict.fromkeys(f for e in experiments for f in e.swept))
    runs = [
        replace(run, fields={"experiment": name} | {f: _or_dash(run.field(f)) for f in fields})
        for name, e in zip(names, experiments, strict=True)
        for run in e.runs
    ]
    varying = [f for f in fields if len({run.fields[f] for run in runs}) > 1]
    return replace(
        experiments[0],
        name=" and ".join(names),
        config={k: v for k, v in experiments[0].config.items() if k != "figure"},
        swept=("experiment", *varying),
        metrics=tuple(dict.fromkeys(m for e in experiments for m in e.metrics)),
        runs=tuple(runs),
        unfinished=tuple(u for e in experiments for u in e.unfinished),
    )


def grouped(runs: Iterable[Run], fields: Sequence[str]) -> dict[tuple[Value, ...], list[Run]]:
    """Runs that agree on ``fields``, so that only the seed differs; groups in order of appearance."""
    groups: dict[tuple[Value, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(_or_dash(run.field(f)) for f in fields), []).append(run)
    return groups


def _or_dash(value: Value | None) -> Value:
    return MISSING if value is None or value == "" else value
