"""Figures drawn from an experiment's files: those that it asks for, and those of files that its runs left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from decentral.disk import write_whole
from decentral.errors import UserError, nearest
from decentral.report.columns import axis_label, field_label, group_label
from decentral.report.drawing import DRAWINGS
from decentral.report.figure_spec import FigureSpec, group_fields
from decentral.report.figure_tables import check_figure, figures_of, parse_figure
from decentral.report.graph_drawing import draw_graph
from decentral.report.graphs import graphs_of
from decentral.report.kinds import KINDS
from decentral.report.legend import draw_legend
from decentral.report.line_styles import styles_of
from decentral.report.page_style import DPI, RC, plain
from decentral.report.reading import read_experiment
from decentral.report.results import Experiment, grouped, merge
from decentral.report.scales import scales_of
from decentral.report.scene import Kind, Scene

SUFFIXES = (".png", ".svg", ".pdf")


def draw_experiment(folder: Path, titles: Mapping[str, str] | None = None) -> list[Path]:
    """Draw each figure of the experiment as PNG and SVG into ``folder/figures``; ``titles``: of methods."""
    experiment, home = read_experiment(folder, titles), Path(folder) / "figures"
    paths = []
    for spec in figures_of(experiment):
        paths += _saved(render(experiment, spec), home / spec.stem)
    for name, drawing in DRAWINGS.items():
        with mpl.rc_context(RC):
            found = drawing.of(experiment)
        if isinstance(found, Figure):
            paths += _saved(found, home / name)
    return paths


def _saved(figure: Figure, stem: Path) -> list[Path]:
    return [save(figure, stem.with_name(f"{stem.name}{suffix}")) for suffix in (".png", ".svg")]


def draw(
    folders: Sequence[Path],
    out: Path,
    *,
    x: str | None = None,
    y: str | None = None,
    group: str | None = None,
    log: str | None = None,
    titles: Mapping[str, str] | None = None,
) -> Path:
    """Draw one figure of one or several experiments into ``out``; the suffix says the format. ``titles``: of methods.

    Without ``x`` and ``y`` it is the first figure that the experiment asks for. ``group`` may join several
    fields by commas. An ``x`` that is a swept field draws final values.
    """
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {out} must end in .png, .svg or .pdf; {nearest(out.suffix, SUFFIXES)}")
    if not folders:
        raise UserError("nothing to draw; name at least one experiment folder")
    experiment = merge([read_experiment(folder, titles) for folder in folders])
    return save(render(experiment, _chosen(experiment, x, y, group, log)), out)


def _chosen(
    experiment: Experiment, x: str | None, y: str | None, group: str | None, log: str | None
) -> FigureSpec:
    suggestions = figures_of(experiment)
    if not suggestions and y is None:
        raise UserError(
            f"{experiment.folder} has no usual column; choose --y from {', '.join(experiment.columns)}"
        )
    if suggestions and x is None and y is None:
        table = {f.name: getattr(suggestions[0], f.name) for f in fields(FigureSpec)}
    else:
        is_field = x is not None and (x in experiment.swept or "." in x)
        kind = "final" if is_field else "curves"
        table = {"y": y or suggestions[0].y, "x": x or "round", "kind": kind}
    if group is not None:
        table["group"] = [part.strip() for part in group.split(",") if part.strip()]
    if log is not None:
        table["log"] = log
    return parse_figure({k: v for k, v in table.items() if v is not None}, where="plot")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of its suffix, whole or not at all, and equal for equal data."""
    suffix = path.suffix.lower()
    dates: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with mpl.rc_context(RC):
        write_whole(
            path,
            lambda file: figure.savefig(file, format=suffix[1:], dpi=DPI, metadata=dates.get(suffix)),
        )
    return path


def render(experiment: Experiment, spec: FigureSpec) -> Figure:
    """Draw one figure; the experiment must have what the specification names."""
    check_figure(spec, experiment)
    kind = KINDS[spec.kind]
    with mpl.rc_context(RC):
        names = group_fields(spec, experiment)
        styles = styles_of(list(grouped(experiment.runs, names)))
        scene = Scene(spec, names, styles, scales_of(spec, experiment), experiment.runs)
        panels = grouped(experiment.runs, (spec.panel,) if spec.panel else ())
        graphs = graphs_of(experiment) if spec.graph else {}
        figure, axes, graph_axes = _canvas(len(panels), len(graphs))
        _label_axes(axes, scene, kind)
        for ax, (panel, runs) in zip(axes, panels.items(), strict=True):
            kind.draw(ax, runs, scene)
            if spec.panel:
                ax.set_title(plain(group_label((spec.panel,), panel)))
        for ax, (name, graph) in zip(graph_axes, graphs.items(), strict=True):
            draw_graph(ax, graph)
            ax.set_title(plain(name), fontsize=9.5)
        if spec.title:
            figure.suptitle(plain(spec.title), fontsize=12)
        draw_legend(axes[0].figure, scene, kind)
        return figure


def _columns(panels: int) -> int:
    return panels if panels <= 3 else 2 if panels == 4 else 3


def _canvas(panels: int, graphs: int) -> tuple[Figure, list[Any], list[Any]]:
    """Axes for the panels, at most three in a row. One graph stands beside them, several stand below."""
    columns = _columns(panels)
    rows = -(-panels // columns)
    body_width, body_height = (5.4, 4.2) if panels == 1 else (3.0 * columns + 0.5, 2.9 * rows + 0.4)
    across = min(graphs, 4)
    below_height = 1.6 * -(-graphs // across) if graphs > 1 else 0.0
    width, height = body_width + 2.2 * (graphs == 1), body_height + below_height
    figure: Any = Figure(figsize=(width, height), layout="constrained")
    body, graph_axes = figure, []
    if graphs == 1:
        body, side = figure.subfigures(1, 2, width_ratios=[body_width, 2.2])
        graph_axes = [side.subplots()]
    elif graphs > 1:
        body, below = figure.subfigures(2, 1, height_ratios=[body_height, below_height])
        every = list(np.ravel(below.subplots(-(-graphs // across), across)))
        graph_axes = every[:graphs]
        for ax in every[graphs:]:
            ax.set_visible(False)
    grid = body.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in grid.flat[panels:]:
        ax.set_visible(False)
    return figure, list(grid.flat[:panels]), graph_axes


def _label_axes(axes: list[Any], scene: Scene, kind: Kind) -> None:
    """Scales and labels; of panels in one row the leftmost, of several rows all together, and the lowest."""
    spec, columns = scene.spec, _columns(len(axes))
    swept = kind.final and "." in spec.x
    x_text = field_label(spec.x) if swept else axis_label(spec.x, scene.scales.size_x)[0]
    y_text = axis_label(spec.y, scene.scales.size_y)[0]
    if len(axes) > columns:  # labels of each row would run into each other
        axes[0].figure.supylabel(y_text, fontsize=mpl.rcParams["axes.labelsize"])
    for i, ax in enumerate(axes):
        ax.set_xscale("log" if scene.scales.log_x else "linear")
        ax.set_yscale("log" if scene.scales.log_y else "linear")
        if len(axes) == columns and i == 0:
            ax.set_ylabel(y_text)
        lowest = i + columns >= len(axes)
        ax.tick_params(labelbottom=lowest)
        if lowest:
            ax.set_xlabel(plain(x_text))
