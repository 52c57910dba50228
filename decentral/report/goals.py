"""When runs reach a goal, and which of several settings reaches it first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from decentral.report.columns import column_words
from decentral.report.figure_spec import FigureSpec
from decentral.report.results import Run, grouped

Cost = tuple[float, float]
"""The columns x and y of a figure when a run reached its goal."""


class Batch(NamedTuple):
    """A ``size`` in samples a round: costs of the seeds' runs; none where not all of them reached the goal."""

    size: float
    costs: list[Cost]


def cost_of(run: Run, spec: FigureSpec) -> Cost | None:
    """(x, y) where ``spec.reach`` first is at ``spec.goal`` or better, linear between records.

    None of a run that did not finish or reached it before its first round or never.
    """
    assert spec.goal is not None
    if not run.finished or any(name not in run.columns for name in (spec.x, spec.y, spec.reach)):
        return None
    x, y, value = (run.columns[name] for name in (spec.x, spec.y, spec.reach))
    more = column_words(spec.reach).better == "high"
    hits = np.flatnonzero(value >= spec.goal if more else value <= spec.goal)
    if not len(hits) or not hits[0]:
        return None
    i = hits[0]
    share = (value[i - 1] - spec.goal) / (value[i - 1] - value[i])
    share = share if np.isfinite(share) else 1.0
    return tuple(float(c[i - 1] + share * (c[i] - c[i - 1])) for c in (x, y))  # type: ignore[return-value]


def tuned_batches(runs: Sequence[Run], spec: FigureSpec, apart: Sequence[str]) -> list[Batch]:
    """Of each batch, y / x at the end, the runs of the setting that reaches the goal first, ascending.

    A setting: swept fields but those ``apart``. It is chosen by the runs of the first seed, and the costs are those of
    the other seeds, where there are any.
    """
    sizes: dict[float, list[Run]] = defaultdict(list)
    for run in runs:
        x, y = (run.columns.get(name, np.empty(0)) for name in (spec.x, spec.y))
        if len(x) and len(y) and x[-1] > 0:
            sizes[float(np.round(y[-1] / x[-1], 6))].append(run)
    return [Batch(size, _best(members, spec, apart)) for size, members in sorted(sizes.items())]


def _best(runs: Sequence[Run], spec: FigureSpec, apart: Sequence[str]) -> list[Cost]:
    first = min(run.seed for run in runs)
    settings = grouped(runs, [name for name in runs[0].fields if name not in apart])
    chosen = [(cost, key) for key, of in settings.items() for cost in _costs(of, spec, {first}) if cost]
    if not chosen:
        return []
    _, key = min(chosen, key=lambda pair: pair[0])
    others = {run.seed for run in runs} - {first} or {first}
    costs = _costs(settings[key], spec, others)
    return [cost for cost in costs if cost] if all(costs) and costs else []


def _costs(runs: Sequence[Run], spec: FigureSpec, seeds: set[int]) -> list[Cost | None]:
    return [cost_of(run, spec) for run in runs if run.seed in seeds]
