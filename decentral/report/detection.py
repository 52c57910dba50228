"""The detection figure: false rejects against false alarms an hour, drawn from the runs' own detection.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from decentral.report.columns import title_of
from decentral.report.results import Array, Experiment
from decentral.report.stored import remedy_of, understood

MOST = 8  # kinds of runs in one figure
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")


def detection(experiment: Experiment) -> Figure | None:
    """A step line a run, a colour for the runs that differ in their seed only, eight at most; None if there is none."""
    found: dict[str, list[tuple[Array, Array]]] = {}
    for run in experiment.runs:
        curve = read_curve(experiment.folder / "runs" / run.id / "detection.csv")
        if curve is not None:
            found.setdefault(title_of(experiment, run), []).append(curve)
    if not found:
        return None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for (title, curves), colour in zip(found.items(), COLOURS, strict=False):
        for k, (alarms, missed) in enumerate(curves):
            axis.step(alarms, missed, where="post", color=colour, lw=1, label=title if k == 0 else None)
    axis.set_xscale(
        "symlog", linthresh=min(c[0][c[0] > 0].min(initial=1e9) for cs in found.values() for c in cs)
    )
    axis.set_ylim(0, 1.02)
    axis.set_xlim(left=0)
    axis.set_xlabel("false alarms an hour")
    axis.set_ylabel("share of keywords missed")
    if len(found) > 1:
        axis.legend()
    return figure


def read_curve(path: Path) -> tuple[Array, Array] | None:
    """(false alarms an hour, share of false rejects) of a run; None where there is no such file."""
    if not path.exists():
        return None
    with understood(path, remedy_of(path.parent)), path.open(newline="", encoding="utf-8") as file:
        rows = [
            (float(r["false_alarms_per_hour"]), float(r["false_reject_rate"])) for r in csv.DictReader(file)
        ]
    alarms, missed = np.array(rows, dtype=np.float64).reshape(-1, 2).T
    return alarms, missed
