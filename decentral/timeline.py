"""The timeline figure: what each stage of a layer-parallel run did when, drawn from the run's own trace file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from decentral.results import Experiment, Run
from decentral.words import field_label, value_label

KINDS = {"forward": "#4477aa", "backward": "#ee6677", "update": "#ccbb44", "wait": "#e8e8e8"}
OTHERS = ("#228833", "#aa3377", "#66ccee", "#999933")
STEPS = 4  # drawn of each run, from the middle of it
BATCHES = 20  # a lane, instead, where there are no steps: in networks of nodes
MOST = 8  # runs in one figure
LANES = 8  # of a run


@dataclass(frozen=True)
class Lane:
    """Spans of one stage: (kind, start, seconds, tag). ``name``: which stage, and of which worker if of several."""

    name: str
    spans: Sequence[tuple[str, float, float, str]]


def timeline(experiment: Experiment, style: dict[str, Any]) -> Figure | None:
    """A panel for each run of the first seed that left a trace, at most eight; None if there is none."""
    runs = [r for r in experiment.runs if r.seed == experiment.seeds[0] and _trace(experiment, r).exists()][
        :MOST
    ]
    if not runs:
        return None
    with mpl.rc_context(style):
        lanes = [_lanes(_trace(experiment, run)) for run in runs]
        heights = [0.75 + 0.32 * len(panel) for panel in lanes]
        figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
        axes = figure.subplots(len(runs), 1, squeeze=False, height_ratios=heights)[:, 0]
        seen: dict[str, str] = {}
        for axis, run, panel in zip(axes, runs, lanes, strict=True):
            _panel(axis, panel, seen)
            axis.set_title(title_of(experiment, run), loc="left")
        clocks = {json.loads(_trace(experiment, run).read_text())["otherData"]["clock"] for run in runs}
        axes[-1].set_xlabel(f"{' or '.join(sorted(clocks))} time (ms)")
        order = [*(k for k in KINDS if k in seen), *(k for k in seen if k not in KINDS)]
        handles = [Patch(color=seen[kind], label=kind) for kind in order]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return figure


def _trace(experiment: Experiment, run: Run) -> Path:
    return experiment.folder / "runs" / run.id / "trace.json"


def title_of(experiment: Experiment, run: Run) -> str:
    """What tells a run from the others of its seed, in words."""
    parts = [value_label(f, v) if f.endswith(".name") else f"{field_label(f)} {value_label(f, v)}"
             for f, v in run.fields.items() if v != ""]  # fmt: skip
    return ", ".join(parts) or str(run.config.get("program", {}).get("name", run.id)) or experiment.name


def _lanes(path: Path) -> list[Lane]:
    """The first stages' spans while the middle steps were under way."""
    everything = json.loads(path.read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in everything if e["name"] == "thread_name"}
    shown = sorted(names)[:LANES]
    events = [e for e in everything if e["ph"] == "X" and e["tid"] in shown]
    updates = {e["name"]: e["ts"] + e["dur"] for e in events if e["cat"] == "update" and e["tid"] == shown[0]}
    # an update may have several pieces
    ends, drawn = list(updates.values()), STEPS
    if not ends:
        ends, drawn = sorted(e["ts"] + e["dur"] for e in events if e["cat"] != "wait"), BATCHES * len(shown)
    middle = len(ends) // 2
    begin, end = ends[max(0, middle - 1)], ends[min(len(ends) - 1, middle - 1 + drawn)]
    if len(ends) <= drawn or end <= begin:
        begin, end = 0.0, max(e["ts"] + e["dur"] for e in events)
    lanes: dict[int, list[tuple[str, float, float, str]]] = {k: [] for k in shown}
    for e in events:
        start, stop = max(e["ts"], begin), min(e["ts"] + e["dur"], end)
        if stop > start:
            tag = e["name"].removeprefix(e["cat"]).strip()
            lanes[e["tid"]].append((e["cat"], (start - begin) / 1e3, (stop - start) / 1e3, tag))
    return [Lane(names[k], lanes[k]) for k in shown]


def _panel(axis: Axes, lanes: Sequence[Lane], seen: dict[str, str]) -> None:
    for i, lane in enumerate(lanes):
        for kind in dict.fromkeys(span[0] for span in lane.spans):
            if kind not in seen:
                others = [k for k in seen if k not in KINDS]
                seen[kind] = KINDS.get(kind) or OTHERS[len(others) % len(OTHERS)]
            bars = [(start, width) for k, start, width, _ in lane.spans if k == kind]
            axis.broken_barh(bars, (i - 0.4, 0.8), facecolors=seen[kind], edgecolor="white", linewidth=0.4)
    axis.set_yticks(range(len(lanes)), [lane.name for lane in lanes])
    axis.set_ylim(len(lanes) - 0.5, -0.5)
    axis.margins(x=0)
    axis.grid(visible=False)
