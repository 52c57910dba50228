"""Final points: what runs ended at, against a swept field or against another of their final values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from decentral.report.columns import value_label
from decentral.report.figure_spec import FigureSpec
from decentral.report.line_styles import LOST
from decentral.report.page_style import plain
from decentral.report.results import Array, Run, Value, grouped
from decentral.report.scene import Marks, Scene, shown
from decentral.report.statistics import band, final_values


class FinalPoints:
    """The final ``y`` against the swept field or the final column ``x``: points with bars for each group."""

    final = True
    marks = Marks("Points", "bars", "Lines")

    def draw(self, ax: Any, runs: Sequence[Run], scene: Scene) -> None:
        """See :class:`decentral.report.scene.Kind`."""
        spec, size = scene.spec, scene.scales.size_y
        named = _places(scene.runs, spec.x)
        dodge = 0.0 if all(isinstance(v, float) for v in named) else 0.5 / max(5, len(scene.styles))
        for group, members in grouped(runs, scene.names).items():
            style = scene.styles[group]
            aside = dodge * (list(scene.styles).index(group) - (len(scene.styles) - 1) / 2)
            at = {named[x] + aside: at_x for (x,), at_x in grouped(members, (spec.x,)).items()}
            look = style.look | ({"linestyle": "none"} if spec.theory or dodge else {})
            _points(ax, {x: s / size for x, s in _samples(at, spec.y).items()}, scene, look)
            lost = [x for x, at_x in at.items() if not any(run.finished for run in at_x)]
            top = ax.get_xaxis_transform()
            ax.plot(lost, [0.97] * len(lost), "x", transform=top, **LOST, color=style.color)
            if spec.theory:
                line = {x: s.mean() / size for x, s in _samples(at, spec.theory).items()}
                look = {"color": style.color, "linestyle": style.line}
                ax.plot(list(line), list(line.values()), **look, lw=1.3, zorder=1.9)
        _tick_places(ax, named, spec.x)

    def sample(self, look: dict[str, Any], spec: FigureSpec) -> dict[str, Any]:
        """See :class:`decentral.report.scene.Kind`; a line between points is the theory's."""
        return look | ({"linestyle": "none"} if spec.theory else {})


def _samples(at: Mapping[float, Sequence[Run]], column: str) -> dict[float, Array]:
    """The final values at each place that has any, from the left."""
    values = {x: final_values(runs, column) for x, runs in sorted(at.items(), key=lambda item: item[0])}
    return {x: v for x, v in values.items() if len(v)}


def _points(ax: Any, samples: dict[float, Array], scene: Scene, look: dict[str, Any]) -> None:
    """A mean with its error bar for each swept value."""
    mean = shown(np.array([s.mean() for s in samples.values()]), scene.scales.log_y)
    bands = [band(s[:, None], log=scene.scales.log_y) for s in samples.values()]
    low = np.array([m - b[0][0] for m, b in zip(mean, bands, strict=True)])
    high = np.array([b[1][0] - m for m, b in zip(mean, bands, strict=True)])
    bars = np.array([low, high]) if len(mean) else None
    ax.errorbar(list(samples), mean, yerr=bars, capsize=3, elinewidth=1.2, **look | {"markersize": 6})


def _places(runs: Iterable[Run], field: str) -> dict[Value, float]:
    """Where each swept value stands on the axis: numbers at themselves, names at 0, 1, 2, ..."""
    values: list[Value] = [value for (value,) in grouped(runs, (field,))]
    if all(isinstance(v, float) for v in values):
        return {v: float(v) for v in values}
    return {v: float(i) for i, v in enumerate(values)}


def _tick_places(ax: Any, places: dict[Value, float], field: str) -> None:
    named = not all(isinstance(v, float) for v in places)
    if named or ("." in field and len(places) <= 8):  # a swept field; a measured one has the axis's own ticks
        ax.set_xticks(list(places.values()), [plain(value_label(v)) for v in places])
        ax.set_xticks([], minor=True)
    if named:
        ax.margins(x=0.1)
