"""Figures drawn from an experiment's files: curves over rounds, final values over a swept field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from decentral.errors import UserError, nearest
from decentral.report.columns import axis_label, field_label, group_label, value_label
from decentral.report.figure_spec import (
    FigureSpec,
    Scales,
    Style,
    check_figure,
    figures_of,
    group_fields,
    parse_figure,
    scales_of,
    styles_of,
)
from decentral.report.parts import parts
from decentral.report.results import (
    Array,
    Experiment,
    Run,
    Value,
    band,
    final_values,
    grouped,
    mean_curve,
    merge,
    read_experiment,
)
from decentral.report.staleness import staleness
from decentral.report.timeline import timeline

DPI = 150
SUFFIXES = (".png", ".svg", ".pdf")
LOST: dict[str, Any] = {"markersize": 7.5, "markeredgewidth": 1.8}  # the cross of a run that did not finish
RC: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "svg.hashsalt": "decentral",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Scene:
    """What every panel of one figure shares: lines, styles, scales, and where swept values stand."""

    spec: FigureSpec
    names: tuple[str, ...]
    styles: dict[tuple[Value, ...], Style]
    scales: Scales
    places: dict[Value, float]


def draw_experiment(folder: Path, titles: Mapping[str, str] | None = None) -> list[Path]:
    """Draw each figure of the experiment as PNG and SVG into ``folder/figures``; ``titles``: of methods."""
    experiment = read_experiment(folder, titles)
    paths = []
    for spec in figures_of(experiment):
        figure = render(experiment, spec)
        paths += [
            save(figure, Path(folder) / "figures" / f"{spec.stem}{suffix}") for suffix in (".png", ".svg")
        ]
    for name, draws in (("timeline", timeline), ("parts", parts), ("staleness", staleness)):
        if found := draws(experiment, RC):
            paths += [
                save(found, Path(folder) / "figures" / f"{name}{suffix}") for suffix in (".png", ".svg")
            ]
    return paths


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
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    draft = path.with_name(f".{path.name}.tmp")
    dates: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with mpl.rc_context(RC):
        figure.savefig(draft, format=suffix[1:], dpi=DPI, metadata=dates.get(suffix))
    return draft.replace(path)


def render(experiment: Experiment, spec: FigureSpec) -> Figure:
    """Draw one figure; the experiment must have what the specification names."""
    check_figure(spec, experiment)
    with mpl.rc_context(RC):
        names = group_fields(spec, experiment)
        styles = styles_of(list(grouped(experiment.runs, names)))
        places = _places(experiment.runs, spec.x) if spec.kind == "final" else {}
        scene = Scene(spec, names, styles, scales_of(spec, experiment), places)
        panels = grouped(experiment.runs, (spec.panel,) if spec.panel else ())
        graphs = _graphs(experiment) if spec.graph else {}
        figure, axes, graph_axes = _canvas(len(panels), len(graphs))
        _label_axes(axes, scene)
        for ax, (panel, runs) in zip(axes, panels.items(), strict=True):
            (_draw_final if spec.kind == "final" else _draw_curves)(ax, runs, scene)
            if spec.panel:
                ax.set_title(_plain(group_label((spec.panel,), panel)))
        _draw_graphs(graph_axes, graphs)
        if spec.title:
            figure.suptitle(_plain(spec.title), fontsize=12)
        _draw_legend(axes[0].figure, scene, experiment.runs)
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


def _draw_curves(ax: Any, runs: list[Run], scene: Scene) -> None:
    spec, scales = scene.spec, scene.scales
    lost: list[tuple[Array, Array, str]] = []
    ceiling = 0.0
    groups = grouped([r for r in runs if spec.x in r.columns and spec.y in r.columns], scene.names)
    for group, members in groups.items():
        finished = [run for run in members if run.finished]
        style = scene.styles[group]
        curve = mean_curve(finished or members, spec.x, spec.y, log=scales.log_y)
        x, y = _shown(curve.x / scales.size_x, scales.log_x), _shown(curve.y / scales.size_y, scales.log_y)
        marks = _marks(len(x), list(scene.styles).index(group), len(scene.styles))
        ax.plot(x, y, **style.look, markevery=marks, label=group_label(scene.names, group))
        if not np.isnan(curve.low).all():
            low, high = (_shown(edge / scales.size_y, scales.log_y) for edge in (curve.low, curve.high))
            ax.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
        if spec.theory and all(spec.theory in run.columns for run in finished or members):
            theory = mean_curve(finished or members, spec.x, spec.theory).y / scales.size_y
            ax.plot(x, _shown(theory, scales.log_y), color=style.color, linewidth=1, linestyle=":")
        seen = np.flatnonzero(np.isfinite(x + y))
        if finished:
            ceiling = max([ceiling, *y[seen]])
        elif len(seen):
            lost.append((x[seen], y[seen], style.color))
    _cross_ends(ax, lost, ceiling * 10 if scales.log_y else ceiling * 1.3)


def _cross_ends(ax: Any, lines: list[tuple[Array, Array, str]], ceiling: float) -> None:
    """Cross the ends of lines that diverged; they leave through the top and do not flatten the others."""
    if lines and 0 < ceiling < ax.get_ylim()[1]:
        ax.set_ylim(top=ceiling)
    top = ax.get_ylim()[1]
    for x, y, color in lines:
        end = int(np.argmax(y > top)) if (y > top).any() else len(y) - 1
        ax.plot([x[end]], [min(y[end], top)], "x", **LOST, color=color, clip_on=False, zorder=3)


def _draw_final(ax: Any, runs: list[Run], scene: Scene) -> None:
    spec = scene.spec
    named = scene.places
    dodge = 0.0 if all(isinstance(v, float) for v in named) else 0.5 / max(5, len(scene.styles))
    for group, members in grouped(runs, scene.names).items():
        style = scene.styles[group]
        aside = dodge * (list(scene.styles).index(group) - (len(scene.styles) - 1) / 2)
        places = {value: place + aside for value, place in named.items()}
        at = grouped(members, (spec.x,))
        samples = {places[x]: final_values(at_x, spec.y) / scene.scales.size_y for (x,), at_x in at.items()}
        look = style.look | ({"linestyle": "none"} if spec.theory or dodge else {})
        _draw_points(ax, {x: s for x, s in sorted(samples.items()) if len(s)}, scene, look)
        lost = [places[x] for (x,), at_x in at.items() if not any(run.finished for run in at_x)]
        ax.plot(lost, [0.97] * len(lost), "x", transform=ax.get_xaxis_transform(), **LOST, color=style.color)
        if spec.theory:
            theory = {places[x]: final_values(at_x, spec.theory) for (x,), at_x in at.items()}
            line = {x: v.mean() / scene.scales.size_y for x, v in sorted(theory.items()) if len(v)}
            ax.plot(
                list(line), list(line.values()), color=style.color, linestyle=style.line, lw=1.3, zorder=1.9
            )
    _tick_places(ax, named, spec.x)


def _draw_points(ax: Any, samples: dict[float, Array], scene: Scene, look: dict[str, Any]) -> None:
    """A mean with its error bar for each swept value."""
    mean = _shown(np.array([s.mean() for s in samples.values()]), scene.scales.log_y)
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
        ax.set_xticks(list(places.values()), [_plain(value_label(field, v)) for v in places])
        ax.set_xticks([], minor=True)
    if named:
        ax.margins(x=0.1)


def _label_axes(axes: list[Any], scene: Scene) -> None:
    """Scales and labels; of panels in one row the leftmost, of several rows all together, and the lowest."""
    spec, columns = scene.spec, _columns(len(axes))
    swept = spec.kind == "final" and "." in spec.x
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
            ax.set_xlabel(_plain(x_text))


def _draw_legend(figure: Any, scene: Scene, runs: Sequence[Run]) -> None:
    """Names below the data; a grid of two fields is named field by field, once each."""
    groups = grouped(runs, scene.names)
    firsts, rests = grouped(runs, scene.names[:1]), grouped(runs, scene.names[1:])
    in_grid = len(firsts) > 1 and len(rests) > 1 and len(groups) > len(firsts) + len(rests)
    if in_grid:
        looks = {g[1:]: style.look | {"color": "#555555"} for g, style in scene.styles.items()}
        colors = {g[:1]: {"color": style.color, "linewidth": 4} for g, style in scene.styles.items()}
        handles = [_handle(colors[g], scene.names[:1], g, m, scene) for g, m in firsts.items()]
        handles += [Line2D([], [], linestyle="none", label=" ")] * (len(rests) - len(firsts))
        handles += [_handle(looks[g], scene.names[1:], g, (), scene) for g in rests]
    else:
        handles = [_handle(scene.styles[g].look, scene.names, g, m, scene) for g, m in groups.items()]
    if scene.spec.theory:
        handles.append(Line2D([], [], color="#555555", linewidth=1.3, label="theory"))
    if len(handles) > 1:
        _place_legend(figure, handles, most_columns=2 if in_grid else 6)


def _place_legend(figure: Any, handles: list[Line2D], most_columns: int) -> None:
    """As many columns as the words leave room for; a tall legend makes the figure taller."""
    root = figure.get_figure(root=True)
    width, height = root.get_size_inches()
    longest = max(len(line) for h in handles for line in str(h.get_label()).splitlines())
    room = figure.bbox.width / root.dpi  # a part of the width, where a graph stands beside
    columns = max(1, min(len(handles), most_columns, int(room / (0.65 + 0.078 * longest))))
    root.set_size_inches(width, height + 0.2 * (-(-len(handles) // columns) - 1))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.5)


def _handle(
    look: dict[str, Any], names: Sequence[str], group: tuple[Value, ...], members: Sequence[Run], scene: Scene
) -> Line2D:
    points_only = scene.spec.theory and scene.spec.kind == "final" and "marker" in look
    label = _plain(group_label(names, group)) + (_remark(members, scene) if members else "")
    return Line2D([], [], **look | ({"linestyle": "none"} if points_only else {}), label=label)


def _remark(members: Sequence[Run], scene: Scene) -> str:
    lost = [run.status for run in members if not run.finished]
    if lost:
        how = "diverged" if set(lost) == {"diverged"} else "failed"
        return f"\n({how})" if len(lost) == len(members) else f"\n({len(lost)} of {len(members)} {how})"
    finals = final_values(members, scene.spec.y)
    if not len(finals) and not any(scene.spec.y in run.columns for run in members):
        return "\n(not measured)"
    ever = any((run.columns.get(scene.spec.y, finals) > 0).any() for run in members)
    if scene.scales.log_y and not (finals > 0).any() and not ever:
        return "\n(zero throughout)"
    return ""


def _graphs(experiment: Experiment) -> dict[str, Any]:
    """One graph for each topology that was swept; empty where the graphs cannot be made here."""
    fields = [f for f in experiment.swept if f.startswith("topology.")] or ["topology.name"]
    groups = grouped([run for run in experiment.runs if "topology" in run.config], fields)
    if find_spec("decentral.commands.topology") is None:
        return {}
    try:
        from decentral.runs.sections.topology import graph_of

        return {group_label(fields, v): graph_of(runs[0].config["topology"]) for v, runs in groups.items()}
    except (ImportError, ValueError):
        return {}


def _draw_graphs(axes: list[Any], graphs: dict[str, Any]) -> None:
    for ax, (name, graph) in zip(axes, graphs.items(), strict=True):
        from decentral.commands.topology import draw_graph

        draw_graph(ax, graph)
        ax.set_title(_plain(name), fontsize=9.5)


def _shown(values: Array, log: bool) -> Array:
    """Values without those a logarithmic axis cannot place."""
    keep = np.isfinite(values) & ((values > 0) | (not log))
    return np.where(keep, values, np.nan)


def _marks(length: int, order: int, groups: int) -> tuple[int, int]:
    """About eight markers a line, set off from the other lines' so that none hides another."""
    step = max(1, length // 8)
    return order * step // max(groups, 1), step


def _plain(text: str) -> str:
    """Text in which a dollar sign is a dollar sign."""
    return text.replace("$", r"\$")
