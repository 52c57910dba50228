"""The trust ratios figure: what each layer's steps were multiplied by, drawn from the runs' own trust_ratios.csv."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from decentral.report.columns import group_label
from decentral.report.csv_files import read_csv
from decentral.report.figure_spec import telling_fields
from decentral.report.line_styles import COLORS, styles_of
from decentral.report.page_style import plain
from decentral.report.results import MISSING, Array, Experiment
from decentral.report.scene import shown
from decentral.report.stored import remedy_of, understood

MOST = 8  # runs in one figure
ACROSS = 2
LETTERS = 48  # of a title's line
NAMED = 8  # layers in the legend
MARKS = 6  # on a line
Ratios = dict[str, Array]
"""Layer -> (rounds, mean of the workers, least, largest), (4, K)."""


def trust_ratios(experiment: Experiment) -> Figure | None:
    """A panel for each run of the first seed that recorded them, at most eight; None if there is none."""
    found = [
        (run, ratios)
        for run in experiment.runs
        if run.seed == experiment.seeds[0]
        and (ratios := read_trust_ratios(experiment.folder / "runs" / run.id / "trust_ratios.csv"))
    ][:MOST]
    if not found:
        return None
    looks = _looks(list(dict.fromkeys(layer for _, ratios in found for layer in ratios)))
    names = telling_fields(experiment, experiment.swept)
    rows, columns = -(-len(found) // ACROSS), min(ACROSS, len(found))
    figure = Figure(figsize=(4.5 * columns, 2.6 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (run, ratios) in zip(axes, found, strict=False):
        _draw(axis, ratios, looks)
        title = group_label(names, [run.fields.get(name, MISSING) for name in names])
        axis.set_title(plain(textwrap.fill(title, LETTERS)), loc="left")
    for axis in axes[len(found) :]:
        axis.remove()
    _legend(figure, looks, columns)
    return figure


def read_trust_ratios(path: Path) -> Ratios | None:
    """The ratios of a run; None where there is no such file, or nothing in it."""
    if not path.exists():
        return None
    found: dict[str, list[list[float]]] = {}
    with understood(path, remedy_of(path.parent)):
        for row in read_csv(path)[1]:
            numbers = [float(row[name]) for name in ("round", "ratio", "ratio_min", "ratio_max")]
            found.setdefault(row["layer"], []).append(numbers)
    return {layer: np.array(rows).T for layer, rows in found.items()} or None


def _looks(layers: Sequence[str]) -> Mapping[str, dict[str, Any]]:
    """Few layers: each its own colour, line and marker. Many: from dark to light, first to last."""
    if len(layers) <= len(COLORS):
        return dict(
            zip(layers, (s.look for s in styles_of([(one,) for one in layers]).values()), strict=True)
        )
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.92, len(layers)))
    return {layer: {"color": tuple(color)} for layer, color in zip(layers, colors, strict=True)}


def _draw(axis: Any, ratios: Ratios, looks: Mapping[str, dict[str, Any]]) -> None:
    for order, (layer, (rounds, mean, least, largest)) in enumerate(ratios.items()):
        step = max(1, len(rounds) // MARKS)
        marks = (order * step // len(ratios), step)
        axis.plot(rounds, shown(mean, log=True), **looks[layer], linewidth=1.3, markevery=marks)
        if (least < largest).any():
            low, high = shown(least, log=True), shown(largest, log=True)
            axis.fill_between(rounds, low, high, color=looks[layer]["color"], alpha=0.2, linewidth=0)
    axis.set_yscale("log")
    axis.set_xlabel("round")
    axis.set_ylabel("trust ratio")


def _legend(figure: Any, looks: Mapping[str, dict[str, Any]], columns: int) -> None:
    """The names of at most eight layers, evenly from the first to the last."""
    names = list(looks)
    chosen = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, min(NAMED, len(names))).astype(int))]
    handles = [Line2D([], [], **looks[name], label=plain(name)) for name in chosen]
    room = 4.5 * columns / (0.75 + 0.08 * max(map(len, chosen)))
    ncols = max(1, min(len(chosen), int(room)))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * (-(-len(chosen) // ncols) - 1))
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols)
