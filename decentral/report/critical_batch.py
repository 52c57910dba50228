"""Critical batch: what a goal costs in rounds and in samples as the batch grows, and the hyperbola through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decentral.report.columns import group_label
from decentral.report.figure_spec import FigureSpec
from decentral.report.goals import Batch, tuned_batches
from decentral.report.hyperbola import Hyperbola, fit
from decentral.report.page_style import plain
from decentral.report.results import Run, grouped
from decentral.report.scene import Marks, Scene


class CriticalBatch:
    """``y = "samples"`` against ``x = "round"`` when ``reach`` first is at ``goal``: a point for each seed and batch.

    Of other swept fields, such as the learning rate, each batch has what reaches the goal first on the first seed; the
    points are the other seeds'. A batch some of whose runs do not reach it is left out, and named.
    """

    final = False
    marks = Marks("Points", "bars", "Lines")
    needs = ("reach", "goal")
    note = (
        "A point for each seed and batch, labelled with the samples of a round; what else is swept was chosen on the "
        "first seed, and the points are of the others. Line: (S / S_min - 1)(E / E_min - 1) = 1 with S on the one axis "
        "and E on the other, by least squares of logarithms; the critical batch is E_min / S_min, with the 95 % "
        "interval that the residuals give. It is an order of magnitude."
    )

    def draw(self, ax: Any, runs: Sequence[Run], scene: Scene) -> None:
        """See :class:`decentral.report.scene.Kind`; both axes are logarithmic."""
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(_written))
            axis.set_minor_formatter(NullFormatter())
        for group, members in grouped(runs, scene.names).items():
            batches = tuned_batches(members, scene.spec, (*scene.names, scene.spec.panel))
            look = scene.styles[group].look
            name = plain(group_label(scene.names, group)) if scene.names else ""
            _draw_group(ax, batches, look, name)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="upper right", fontsize=7.5, handlelength=1.6)

    def sample(self, look: dict[str, Any], spec: FigureSpec) -> dict[str, Any]:
        """See :class:`decentral.report.scene.Kind`."""
        del spec
        return look


def _draw_group(ax: Any, batches: Sequence[Batch], look: dict[str, Any], name: str) -> None:
    points = np.array([cost for batch in batches for cost in batch.costs]).reshape(-1, 2)
    found = fit(*points.T) if len(points) else None
    for batch in (b for b in batches if b.costs):
        x, y = np.exp(np.log(batch.costs).mean(axis=0))
        ax.annotate(f"{batch.size:,.0f}", (x, y), (5, 4), textcoords="offset points", fontsize=7.5)
    label = "\n".join([*([name] if name else []), _words(found), *_left_out(batches)])
    ax.plot(*points.T, **look | {"linestyle": "none"}, label=label if found is None else None)
    if found is not None:
        sizes = points[:, 1] / points[:, 0]
        b = np.geomspace(sizes.min() / 2, sizes.max() * 2, 200)
        s = found.rounds(b)
        ax.plot(s, b * s, **look | {"marker": ""}, label=label)


def _words(found: Hyperbola | None) -> str:
    if found is None:
        return "no hyperbola: three batches on both sides of the bend are needed"
    b, factor = found.b_crit, found.factor
    interval = f" ({_digits(b / factor)} to {_digits(b * factor)})" if np.isfinite(factor) else ""
    least = f"S_min = {_digits(found.s_min)}, E_min = {_digits(found.e_min)}"
    return f"critical batch {_digits(b)}{interval}\n{least}"


def _digits(value: float) -> str:
    """Three of them, as 40,000."""
    return _written(float(f"{value:.3g}"))


def _written(value: float, place: object = None) -> str:
    del place
    return f"{value:,.10g}"


def _left_out(batches: Sequence[Batch]) -> list[str]:
    missing = [f"{batch.size:,.0f}" for batch in batches if not batch.costs]
    return [f"goal not reached: {', '.join(missing)}"] if missing else []
