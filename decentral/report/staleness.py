"""The staleness figure: how late messages of asynchronous workers were, drawn from the runs' own staleness.csv."""

from __future__ import annotations

import csv
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from decentral.report.columns import title_of
from decentral.report.results import Array, Experiment, Run
from decentral.report.stored import remedy_of, understood

BARS = 40  # of a panel, at most
MOST = 8  # runs in one figure
ACROSS = 2
LETTERS = 48  # of a title's line
Counts = NDArray[np.int64]
COLOUR = "#4477aa"


def staleness(experiment: Experiment) -> Figure | None:
    """A histogram for each run of the first seed that left one, at most eight; None if there is none."""
    found = [
        (run, *counts)
        for run in experiment.runs
        if run.seed == experiment.seeds[0] and (counts := read_staleness(_file(experiment, run))) is not None
    ][:MOST]
    if not found:
        return None
    rows, columns = -(-len(found) // ACROSS), min(ACROSS, len(found))
    figure = Figure(figsize=(4.5 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (run, lags, messages) in zip(axes, found, strict=False):
        edges, share = bars(lags, messages)
        axis.bar(edges[:-1], share, np.diff(edges), align="edge", color=COLOUR, edgecolor="white")
        axis.set_yscale("log")
        axis.set_ylim(0.5 / messages.sum(), 1.5)  # a single message has a bar too
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_title(textwrap.fill(title_of(experiment, run), LETTERS), loc="left")
        axis.set_xlabel("staleness (steps of a worker)")
        axis.set_ylabel("share of messages")
    for axis in axes[len(found) :]:
        axis.remove()
    return figure


def read_staleness(path: Path) -> tuple[Counts, Counts] | None:
    """(staleness, messages) of a run, ascending; None where there is no such file or no message."""
    if not path.exists():
        return None
    with understood(path, remedy_of(path.parent)), path.open(newline="", encoding="utf-8") as file:
        rows = [(int(row["staleness"]), int(row["messages"])) for row in csv.DictReader(file)]
    if not rows:
        return None
    lags, messages = np.array(rows, dtype=np.int64).T
    return lags, messages


def bars(lags: Counts, messages: Counts) -> tuple[Array, Array]:
    """(edges, shares) of at most forty bars of a whole number of steps each, around the values that they count."""
    low, high = int(lags.min()), int(lags.max())
    width = -(-(high - low + 1) // BARS)
    count = -(-(high - low + 1) // width)
    edges = low - 0.5 + width * np.arange(count + 1, dtype=np.float64)
    share = np.zeros(count)
    np.add.at(share, (lags - low) // width, messages / messages.sum())
    return edges, share


def _file(experiment: Experiment, run: Run) -> Path:
    return experiment.folder / "runs" / run.id / "staleness.csv"
