"""The report: one HTML file that holds an experiment's question, numbers, figures and circumstances."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from decentral.disk import write_whole
from decentral.report.columns import COLUMNS, column_words, field_label, value_label
from decentral.report.drawing import DRAWINGS
from decentral.report.figure_spec import FigureSpec
from decentral.report.figure_tables import figures_of
from decentral.report.kinds import KINDS
from decentral.report.page_style import DPI
from decentral.report.plots import draw_experiment
from decentral.report.reading import read_experiment
from decentral.report.results import Experiment, Run
from decentral.report.scales import scales_of
from decentral.report.statistics import Spread
from decentral.report.stored import AGAIN, read_text
from decentral.report.summary import (
    cell_texts,
    lost_runs,
    metric_header,
    metrics_of,
    summarise,
)


def write_report(
    folder: Path, drawn: Sequence[Path] | None = None, titles: Mapping[str, str] | None = None
) -> Path:
    """Write ``folder/report.html``, whole or not at all; nothing in it is fetched.

    ``drawn`` is what :func:`decentral.report.plots.draw_experiment` returned; without it the figures are drawn here.
    ``titles``: of methods.
    """
    experiment = read_experiment(folder, titles)
    paths = draw_experiment(folder, titles) if drawn is None else drawn
    pictures = {p.stem: p for p in paths if p.suffix == ".png"}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template("report.html.j2").render(
        name=experiment.name,
        question=experiment.question,
        extent=_extent(experiment),
        summary=_summary(experiment),
        lost=lost_runs(experiment),
        figures=list(_figures(experiment, pictures)),
        intervals=_intervals(experiment),
        tables=list(_tables(experiment, pictures)),
        runs=_runs(experiment),
        command=experiment.command,
        environment=_environment(experiment.runs),
        source=read_text(experiment.folder / "experiment.toml", AGAIN),
    )
    path = Path(folder) / "report.html"
    write_whole(path, text)
    return path


def _extent(experiment: Experiment) -> str:
    """``9 runs over 3 seeds (0, 1, 2): 8 finished, 1 diverged``."""
    runs, seeds = experiment.runs, experiment.seeds
    states = [run.status for run in runs] + ["unfinished"] * len(experiment.unfinished)
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    shown = ", ".join(map(str, seeds)) if len(seeds) <= 12 else f"{seeds[0]} to {seeds[-1]}"
    return f"{_count(len(states), 'run')} over {_count(len(seeds), 'seed')} ({shown}): {counts}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _summary(experiment: Experiment) -> dict[str, Any]:
    metrics = metrics_of(experiment)
    summary = summarise(experiment, metrics)
    return {
        "fields": [field_label(f) for f in summary.fields],
        "metrics": [{"short": metric_header(m), "column": m} for m in metrics],
        "rows": [
            {
                "labels": row.labels,
                "seeds": row.seeds,
                "cells": cell_texts(row, metrics),
            }
            for row in summary.rows
        ],
    }


def _intervals(experiment: Experiment) -> dict[str, Any]:
    """The 95 % interval of each mean; empty where no group has two seeds."""
    metrics = [m for m in metrics_of(experiment) if COLUMNS.get(m, column_words(m)).better]
    summary = summarise(experiment, metrics)
    rows = [
        {"labels": row.labels, "cells": [_interval(v) for v in row.values]}
        for row in summary.rows
        if any(v.n > 1 for v in row.values)
    ]
    return {
        "fields": [field_label(f) for f in summary.fields],
        "metrics": [metric_header(m) for m in metrics],
        "rows": rows if metrics else [],
    }


def _interval(value: Spread) -> str:
    if value.n < 2:
        return "–"
    return f"{value.mean - value.half_width:.4g} … {value.mean + value.half_width:.4g}"


def _figures(experiment: Experiment, pictures: Mapping[str, Path]) -> Iterable[dict[str, Any]]:
    """The figures that were asked for, then those of files that runs left."""
    specs = figures_of(experiment)
    for spec in specs:
        yield _figure(spec, pictures[spec.stem], experiment)
    for name in _of_files(specs, pictures):
        heading, note = DRAWINGS[name].heading, DRAWINGS[name].note
        words = {"alt": heading[0].lower() + heading[1:], "heading": heading, "caption": "", "note": note}
        yield {**_image(pictures[name]), **words}


def _tables(experiment: Experiment, pictures: Mapping[str, Path]) -> Iterable[dict[str, Any]]:
    """The tables of files that runs left."""
    drawn = _of_files(figures_of(experiment), pictures)
    for name, drawing in DRAWINGS.items():
        rows = None if name in drawn else drawing.of(experiment)
        if rows and isinstance(rows, list):
            yield {"name": name, "heading": drawing.heading, "note": drawing.note, "rows": rows}


def _of_files(specs: Sequence[FigureSpec], pictures: Mapping[str, Path]) -> list[str]:
    """The drawings that are pictures; a picture of such a name that was asked for is none of them."""
    asked = {spec.stem for spec in specs}
    return [name for name in DRAWINGS if name in pictures and name not in asked]


def _image(png: Path) -> dict[str, Any]:
    data = png.read_bytes()
    return {
        "data": f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}",
        "width": int.from_bytes(data[16:20]) * 96 // DPI,  # a PNG's width stands in bytes 16 to 19
    }


def _figure(spec: FigureSpec, png: Path, experiment: Experiment) -> dict[str, Any]:
    y = column_words(spec.y).axis.partition("\n")[0]
    x = field_label(spec.x) if KINDS[spec.kind].final else column_words(spec.x).axis
    return {
        **_image(png),
        "alt": f"{y} against {x}",
        "heading": "" if spec.title else f"{y[0].upper()}{y[1:]} against {x}",
        "caption": spec.caption,
        "note": _note(spec, experiment),
    }


def _note(spec: FigureSpec, experiment: Experiment) -> str:
    """How to read the marks of a figure."""
    kind = KINDS[spec.kind]
    if own := getattr(kind, "note", ""):
        return str(own)
    marks = kind.marks
    seeds = len(experiment.seeds)
    log = " of the logarithm" if scales_of(spec, experiment).log_y else ""
    parts = [f"{marks.mean}: mean over {seeds} seeds; {marks.spread}: one sample standard deviation{log}."]
    if seeds == 1:
        parts = ["One seed: no spread is known."]
    if spec.theory:
        parts.append(f"{marks.theory}: {column_words(spec.theory).axis}.")
    if any(not run.finished for run in experiment.runs):
        parts.append("A cross marks runs none of which finished; the others' means are over those that did.")
    return " ".join(parts)


def _runs(experiment: Experiment) -> dict[str, Any]:
    """Every run by itself, with all the digits that a reader can use."""
    fields, metrics = experiment.swept, metrics_of(experiment)
    rows = [
        [run.id, run.status, str(run.seed)]
        + [value_label(run.fields[f]) for f in fields]
        + [f"{run.final[m]:.6g}" if m in run.final and run.final[m] == run.final[m] else "–" for m in metrics]
        for run in experiment.runs
    ]
    return {"header": ["run", "status", "seed", *map(field_label, fields), *metrics], "rows": rows}


def _environment(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """Where the runs took place; a value that differs between runs is listed with all its forms."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in _flat(run.environment):
            found.setdefault(key, {})[value] = None
    return [(key, _shortened(list(values))) for key, values in found.items()]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _shortened(values: list[str]) -> str:
    shown = [v if len(v) <= 300 else f"{v[:300]} …" for v in values[:6]]
    return "; ".join(shown) + (f"; and {len(values) - 6} more" if len(values) > 6 else "")
