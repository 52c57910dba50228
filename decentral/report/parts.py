"""The parts figure: what the non-negative parts of a factorised boundary stand for, from a run's own findings file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from decentral.report.columns import group_label
from decentral.report.figure_spec import telling_fields
from decentral.report.results import Array, Experiment, Run
from decentral.report.stored import remedy_of, understood

ACROSS = 8  # parts in a row, at most
WIDTH = 9.0  # of the figure, in inches
MOST = 4  # runs in one figure
BARS, TOP = "#bbbbbb", "#0072B2"


@dataclass(frozen=True)
class Parts:
    """Parts of one run, by the class that has most of each, then by its share.

    ``contrasts`` (r, channels, height, width): mean input weighted by a part's coefficients, less the mean input.
    ``shares`` (r, C): mean coefficient of a class, over the sum of all classes'; NaN for a part that no sample uses.
    ``use`` (r): that sum, over the sum of all parts'. ``classes`` (C): labels. ``residual``: the share of the
    squared hidden values that the parts leave out.
    """

    contrasts: Array
    shares: Array
    use: Array
    classes: Array
    residual: float

    @property
    def purity(self) -> float:
        """Mean share of a part's first class, by use: 1 / C where no part tells classes apart, 1 where each has one."""
        return float(np.nansum(self.use * self.shares.max(1)))


def parts(experiment: Experiment) -> Figure | None:
    """A grid for each run of the first seed that found parts of images, at most four; None if there is none."""
    found = {}
    for run in (r for r in experiment.runs if r.seed == experiment.seeds[0]):
        if one := read_parts(experiment.folder / "runs" / run.id / "findings.npz"):
            found[run.id] = (run, one)
    shown = list(found.values())[:MOST]
    if not shown:
        return None
    heights = [0.5 + _rows(one) * (WIDTH / _columns(one) + 0.6) for _, one in shown]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    panels = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, (run, one) in zip(panels, shown, strict=True):
        panel.suptitle(_title(experiment, run, one), fontsize=10.5)
        _grid(panel, one)
    return figure


def _rows(one: Parts) -> int:
    return -(-len(one.shares) // ACROSS)


def _columns(one: Parts) -> int:
    return -(-len(one.shares) // _rows(one))


def read_parts(path: Path) -> Parts | None:
    """The parts in a findings file; None where there is no file, or nothing of images and classes in it."""
    if not path.exists():
        return None
    with understood(path, remedy_of(path.parent)):
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
        for name in found:
            prefix = name.removesuffix("pictures")
            if prefix != name and f"{prefix}class_coefficients" in found and _is_image(found[name][0]):
                return _ordered(prefix, found)
    return None


def _is_image(picture: Array) -> bool:
    return picture.ndim == 3 and picture.shape[0] in (1, 3) and min(picture.shape[1:]) > 1


def _ordered(prefix: str, found: Mapping[str, Array]) -> Parts:
    means = found[f"{prefix}class_coefficients"].astype(float)
    sums = means.sum(1)
    with np.errstate(invalid="ignore"):
        shares, use = means / sums[:, None], sums / sums.sum()
    top = np.nan_to_num(shares, nan=-1.0)
    order = np.lexsort((-top.max(1), np.where(top.max(1) < 0, top.shape[1], top.argmax(1))))
    contrasts = (found[f"{prefix}pictures"] - found[f"{prefix}mean_input"])[order]
    return Parts(
        contrasts, shares[order], use[order], found[f"{prefix}classes"], float(found[f"{prefix}residual"])
    )


def _title(experiment: Experiment, run: Run, one: Parts) -> str:
    names = telling_fields(experiment, experiment.swept)
    return (
        f"{group_label(names, [run.fields[n] for n in names]) or experiment.name}, seed {run.seed}\n"
        f"share of a part's first class {one.purity:.2f} by use, {1 / len(one.classes):.2g} if all were equal; "
        f"left out of the hidden values' squares: {one.residual:.1g}"
    )


def _grid(panel: Any, one: Parts) -> None:
    axes = panel.subplots(2 * _rows(one), _columns(one), height_ratios=[1, 0.35] * _rows(one), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for j, (contrast, shares, use) in enumerate(zip(one.contrasts, one.shares, one.use, strict=True)):
        row, column = divmod(j, _columns(one))
        above, below = axes[2 * row : 2 * row + 2, column]
        if np.isnan(shares).any():
            above.set_title("unused", fontsize=9)
            continue
        above.set_title(f"{one.classes[shares.argmax()]}: {shares.max():.2f}  use {use:.2f}", fontsize=8)
        _picture(above, contrast)
        _bars(below, shares, one.classes, float(np.nanmax(one.shares)))


def _picture(axis: Axes, contrast: Array) -> None:
    """Grey images as red (more than the mean) and blue (less), colour images about grey; each to its own scale."""
    most = float(np.abs(contrast).max()) or 1.0
    if len(contrast) == 1:
        axis.imshow(contrast[0], cmap="RdBu_r", vmin=-most, vmax=most)
    else:
        axis.imshow(0.5 + np.moveaxis(contrast, 0, 2) / (2 * most))


def _bars(axis: Axes, shares: Array, classes: Array, most: float) -> None:
    axis.set_axis_on()
    places = np.arange(len(shares))
    axis.bar(places, shares, width=0.8, color=[TOP if s == shares.max() else BARS for s in shares])
    axis.axhline(1 / len(shares), color="#444444", linewidth=0.6, linestyle=":")
    axis.set_ylim(0, most)
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)
    step = -(-len(places) // 10)
    axis.set_xticks(places[::step], [str(c) for c in classes[::step]], fontsize=7)
    axis.tick_params(length=0, pad=1)
