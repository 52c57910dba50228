"""The report: one HTML file that holds an experiment's question, numbers, figures and circumstances."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from decentral.report.columns import COLUMNS, column_words, field_label, value_label
from decentral.report.figure_spec import FigureSpec, figures_of, scales_of
from decentral.report.node_table import node_table
from decentral.report.plots import DPI, draw_experiment
from decentral.report.results import Experiment, Run, Spread, grouped, read_experiment
from decentral.report.stage_table import stage_table
from decentral.report.summary import (
    cell_texts,
    lost_runs,
    metric_header,
    metrics_of,
    summarise,
)

OF_FILES = {
    "timeline": (
        "What each stage, worker or rank did when",
        "Some steps or rounds from the middle of each run of the first seed; each run's trace.json opens in "
        "chrome://tracing or Perfetto. White: nothing of the training, or records.",
    ),
    "staleness": (
        "How late messages were",
        "All messages of each run of the first seed. Of a worker that asks for an average: its own steps from asking "
        "until the answer was added. Of push-sum: the receiver's steps when it added a share, less the sender's when "
        "it sent that. The numbers are in each run's staleness.csv.",
    ),
    "parts": (
        "What the parts of the factorisation stand for",
        "A part is a pattern of hidden units. Pictures: the mean input weighted by how much of the part is in it, less "
        "the mean input; red is more, blue less, each picture to its own scale. Bars: how a part's mean coefficient "
        "is shared out over the classes, dotted if equally. Over each picture: the first class and its share; use: "
        "what the part has of all coefficients.",
    ),
}
"""Figures that are drawn from files of their own wherever a run left these: file stem -> heading, how to read it."""


def write_report(
    folder: Path, drawn: Sequence[Path] | None = None, titles: Mapping[str, str] | None = None
) -> Path:
    """Write ``folder/report.html``, whole or not at all; nothing in it is fetched.

    ``drawn`` is what :func:`decentral.report.plots.draw_experiment` returned; without it the figures are drawn here.
    ``titles``: of methods.
    """
    experiment = read_experiment(folder, titles)
    paths = draw_experiment(folder, titles) if drawn is None else drawn
    drawings = {p.stem: p for p in paths if p.suffix == ".png"}
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
        figures=[_figure(spec, drawings[spec.stem], experiment) for spec in figures_of(experiment)]
        + [_of_files(drawings[stem], *words) for stem, words in OF_FILES.items() if stem in drawings],
        intervals=_intervals(experiment),
        tables=[
            (name, rows)
            for name, rows in (
                ("Stages", stage_table(experiment)),
                ("Nodes", node_table(experiment)),
                ("Graphs", _graph_facts(experiment)),
            )
            if rows
        ],
        runs=_runs(experiment),
        command=experiment.command,
        environment=_environment(experiment.runs),
        source=(experiment.folder / "experiment.toml").read_text(encoding="utf-8"),
    )
    path = Path(folder) / "report.html"
    draft = path.with_name(".report.html.tmp")
    draft.write_text(text, encoding="utf-8")
    return draft.replace(path)


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


def _of_files(png: Path, heading: str, note: str) -> dict[str, Any]:
    return {
        **_image(png),
        "alt": heading[0].lower() + heading[1:],
        "heading": heading,
        "caption": "",
        "note": note,
    }


def _image(png: Path) -> dict[str, Any]:
    data = png.read_bytes()
    return {
        "data": f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}",
        "width": int.from_bytes(data[16:20]) * 96 // DPI,  # a PNG's width stands in bytes 16 to 19
    }


def _figure(spec: FigureSpec, png: Path, experiment: Experiment) -> dict[str, Any]:
    y = column_words(spec.y).axis.partition("\n")[0]
    x = field_label(spec.x) if spec.kind == "final" else column_words(spec.x).axis
    return {
        **_image(png),
        "alt": f"{y} against {x}",
        "heading": "" if spec.title else f"{y[0].upper()}{y[1:]} against {x}",
        "caption": spec.caption,
        "note": _note(spec, experiment),
    }


def _note(spec: FigureSpec, experiment: Experiment) -> str:
    """How to read the marks of a figure."""
    mark, extent = ("Points", "bars") if spec.kind == "final" else ("Lines", "bands")
    seeds = len(experiment.seeds)
    log = " of the logarithm" if scales_of(spec, experiment).log_y else ""
    parts = [f"{mark}: mean over {seeds} seeds; {extent}: one sample standard deviation{log}."]
    if seeds == 1:
        parts = ["One seed: no spread is known."]
    if spec.theory:
        line = "Lines" if spec.kind == "final" else "Fine dotted lines"
        parts.append(f"{line}: {column_words(spec.theory).axis}.")
    if any(not run.finished for run in experiment.runs):
        parts.append("A cross marks runs none of which finished; the others' means are over those that did.")
    return " ".join(parts)


def _graph_facts(experiment: Experiment) -> list[dict[str, str]]:
    """Size, degrees and spectral gap of each topology; nothing where its graph cannot be made here."""
    fields = [f for f in experiment.swept if f.startswith("topology.")] or ["topology.name"]
    groups = grouped([run for run in experiment.runs if "topology" in run.config], fields)
    try:
        return [_facts(fields, values, runs[0].config["topology"]) for values, runs in groups.items()]
    except (ImportError, ValueError):
        return []


def _facts(fields: list[str], values: tuple[Any, ...], table: Mapping[str, Any]) -> dict[str, str]:
    import topologies
    from decentral.runs.sections.topology import graph_of

    graph = graph_of(table)
    degrees = [d for _, d in (graph.out_degree() if graph.is_directed() else graph.degree())]
    facts = {field_label(f): value_label(f, v) for f, v in zip(fields, values, strict=True)}
    facts |= {"workers": str(graph.number_of_nodes()), "edges": str(graph.number_of_edges())}
    low, high = min(degrees), max(degrees)
    facts["neighbours"] = str(low) if low == high else f"{low} to {high}"
    facts["weights"] = str(table.get("weights", "its own"))  # of a schedule, or of a method that makes one
    if "weights" in table and table["name"] != "files":
        w = topologies.mixing_matrix(graph, facts["weights"])
        facts["spectral gap 1 − ρ"] = f"{topologies.spectral_gap(w):.4g}"
    return facts


def _runs(experiment: Experiment) -> dict[str, Any]:
    """Every run by itself, with all the digits that a reader can use."""
    fields, metrics = experiment.swept, metrics_of(experiment)
    rows = [
        [run.id, run.status, str(run.seed)]
        + [value_label(f, run.fields[f]) for f in fields]
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
