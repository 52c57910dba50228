"""Curves: a column against another over the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decentral.report.columns import group_label
from decentral.report.figure_spec import FigureSpec
from decentral.report.line_styles import LOST
from decentral.report.results import Array, Run, grouped
from decentral.report.scene import Marks, Scene, shown
from decentral.report.statistics import mean_curve


class Curves:
    """The column ``y`` against the column ``x`` over the rounds: a line and a band for each group."""

    final = False
    marks = Marks("Lines", "bands", "Fine dotted lines")

    def draw(self, ax: Any, runs: Sequence[Run], scene: Scene) -> None:
        """See :class:`decentral.report.scene.Kind`."""
        spec, scales = scene.spec, scene.scales
        lost: list[tuple[Array, Array, str]] = []
        ceiling = 0.0
        groups = grouped([r for r in runs if spec.x in r.columns and spec.y in r.columns], scene.names)
        for group, members in groups.items():
            finished = [run for run in members if run.finished]
            x, y = _line(ax, group, finished or members, scene)
            seen = np.flatnonzero(np.isfinite(x + y))
            if finished:
                ceiling = max([ceiling, *y[seen]])
            elif len(seen):
                lost.append((x[seen], y[seen], scene.styles[group].color))
        _cross_ends(ax, lost, ceiling * 10 if scales.log_y else ceiling * 1.3)

    def sample(self, look: dict[str, Any], spec: FigureSpec) -> dict[str, Any]:
        """See :class:`decentral.report.scene.Kind`."""
        del spec
        return look


def _line(ax: Any, group: tuple[Any, ...], runs: Sequence[Run], scene: Scene) -> tuple[Array, Array]:
    """The mean of the runs with its band, and the theory's where all have one; (x, y) of the mean as drawn."""
    spec, scales, style = scene.spec, scene.scales, scene.styles[group]
    curve = mean_curve(runs, spec.x, spec.y, log=scales.log_y)
    x, y = shown(curve.x / scales.size_x, scales.log_x), shown(curve.y / scales.size_y, scales.log_y)
    marks = _marks(len(x), list(scene.styles).index(group), len(scene.styles))
    ax.plot(x, y, **style.look, markevery=marks, label=group_label(scene.names, group))
    if not np.isnan(curve.low).all():
        low, high = (shown(edge / scales.size_y, scales.log_y) for edge in (curve.low, curve.high))
        ax.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
    if spec.theory and all(spec.theory in run.columns for run in runs):
        theory = mean_curve(runs, spec.x, spec.theory).y / scales.size_y
        ax.plot(x, shown(theory, scales.log_y), color=style.color, linewidth=1, linestyle=":")
    return x, y


def _cross_ends(ax: Any, lines: list[tuple[Array, Array, str]], ceiling: float) -> None:
    """Cross the ends of lines that diverged; they leave through the top and do not flatten the others."""
    if lines and 0 < ceiling < ax.get_ylim()[1]:
        ax.set_ylim(top=ceiling)
    top = ax.get_ylim()[1]
    for x, y, color in lines:
        end = int(np.argmax(y > top)) if (y > top).any() else len(y) - 1
        ax.plot([x[end]], [min(y[end], top)], "x", **LOST, color=color, clip_on=False, zorder=3)


def _marks(length: int, order: int, groups: int) -> tuple[int, int]:
    """About eight markers a line, set off from the other lines' so that none hides another."""
    step = max(1, length // 8)
    return order * step // max(groups, 1), step
