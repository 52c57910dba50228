"""The timeline figure: what each stage, worker or rank did when, drawn from the run's own trace file.

A trace of rounds of workers has spans "compute", "update", "send" and "wait", each with its round as tag, on the
simulated clock or as measured. Its worker's n-th round ends with the last span of that round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from decentral.report.columns import title_of
from decentral.report.results import Experiment, Run
from decentral.report.stored import read_json, remedy_of, understood

KINDS = {
    "compute": "#4477aa", "gradient": "#4477aa", "forward": "#4477aa", "backward": "#ee6677", "update": "#ccbb44",
    "send": "#ee7733",
    "wait": "#e8e8e8",
}  # fmt: skip
OTHERS = ("#228833", "#aa3377", "#66ccee", "#999933")
STEPS = 4  # or rounds, drawn of each run, from the middle of it
BATCHES = 20  # a lane, instead, where there are no steps: in networks of nodes
MOST = 8  # runs in one figure
LANES = 32  # in one figure, shared out among its runs
ROOMY = 8  # lanes that each run has; more are drawn thinner, and some named
INCHES = 0.32  # of a lane


@dataclass(frozen=True)
class Lane:
    """Spans of one stage, worker or rank: (kind, start, length, tag), in ms. ``name``: which."""

    name: str
    spans: Sequence[tuple[str, float, float, str]]


def timeline(experiment: Experiment) -> Figure | None:
    """A panel for each run of the first seed that left a trace, at most eight; None if there is none."""
    runs = [r for r in experiment.runs if r.seed == experiment.seeds[0] and _trace(experiment, r).exists()][
        :MOST
    ]
    if not runs:
        return None
    shown = max(ROOMY, LANES // len(runs))
    traces = [_read(_trace(experiment, run), shown) for run in runs]
    lanes = [panel for panel, _, _ in traces]
    heights = [0.75 + INCHES * min(len(panel), ROOMY + len(panel) / ROOMY) for panel in lanes]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(runs), 1, squeeze=False, height_ratios=heights)[:, 0]
    seen: dict[str, str] = {}
    for axis, run, (panel, all_lanes, _) in zip(axes, runs, traces, strict=True):
        _panel(axis, panel, seen)
        part = f" (the first {len(panel)} of {all_lanes})" if len(panel) < all_lanes else ""
        axis.set_title(title_of(experiment, run) + part, loc="left")
    clocks = {clock for _, _, clock in traces}
    unit, in_ms = _unit(
        max(
            (s + length for panel in lanes for lane in panel for _, s, length, _ in lane.spans),
            default=0.0,
        )
    )
    for axis in axes:
        axis.xaxis.set_major_formatter(lambda ms, _: f"{ms / in_ms:g}")
    axes[-1].set_xlabel(f"{' or '.join(sorted(clocks))} time ({unit})")
    order = [*(k for k in KINDS if k in seen), *(k for k in seen if k not in KINDS)]
    handles = [Patch(color=seen[kind], label=kind) for kind in order]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return figure


def _unit(longest_ms: float) -> tuple[str, float]:
    """The unit in which such a time reads best, and its length in ms."""
    if longest_ms >= 10_000:
        return "s", 1e3
    return ("ms", 1.0) if longest_ms >= 0.1 else ("µs", 1e-3)


def _trace(experiment: Experiment, run: Run) -> Path:
    return experiment.folder / "runs" / run.id / "trace.json"


def _read(path: Path, most: int) -> tuple[list[Lane], int, str]:
    """A trace's first lanes, how many there are, and its clock."""
    remedy = remedy_of(path.parent)
    with understood(path, remedy):
        trace = read_json(path, remedy)
        return *_lanes(trace["traceEvents"], most), str(trace["otherData"]["clock"])


def _lanes(everything: list[dict[str, Any]], most: int) -> tuple[list[Lane], int]:
    """The first lanes' spans while the middle steps were under way, and how many lanes there are."""
    names = {e["tid"]: e["args"]["name"] for e in everything if e["name"] == "thread_name"}
    shown = sorted(names)[:most]
    events = [e for e in everything if e["ph"] == "X" and e["tid"] in shown]
    first = [e for e in events if e["tid"] == shown[0]]
    of_rounds = any(e["cat"] == "compute" for e in first)
    # a step ends with its update, which may have several pieces; a round with whatever is last
    steps = {_tag(e): e["ts"] + e["dur"] for e in first if of_rounds or e["cat"] == "update"}
    ends, drawn = list(steps.values()), STEPS
    if not ends:
        ends, drawn = sorted(e["ts"] + e["dur"] for e in events if e["cat"] != "wait"), BATCHES * len(shown)
    before = max(0, (len(ends) - drawn) // 2 - 1)
    begin, end = ends[before], ends[min(len(ends) - 1, before + drawn)]
    if len(ends) <= drawn or end <= begin:
        begin, end = min(e["ts"] for e in events), max(e["ts"] + e["dur"] for e in events)
    lanes: dict[int, list[tuple[str, float, float, str]]] = {k: [] for k in shown}
    for e in events:
        start, stop = max(e["ts"], begin), min(e["ts"] + e["dur"], end)
        if stop > start:
            lanes[e["tid"]].append((e["cat"], (start - begin) / 1e3, (stop - start) / 1e3, _tag(e)))
    return [Lane(names[k], lanes[k]) for k in shown], len(names)


def _tag(event: dict[str, Any]) -> str:
    return str(event["name"]).removeprefix(event["cat"]).strip()


def _panel(axis: Axes, lanes: Sequence[Lane], seen: dict[str, str]) -> None:
    for i, lane in enumerate(lanes):
        for kind in dict.fromkeys(span[0] for span in lane.spans):
            if kind not in seen:
                others = [k for k in seen if k not in KINDS]
                seen[kind] = KINDS.get(kind) or OTHERS[len(others) % len(OTHERS)]
            bars = [(start, width) for k, start, width, _ in lane.spans if k == kind]
            axis.broken_barh(bars, (i - 0.4, 0.8), facecolors=seen[kind], edgecolor="white", linewidth=0.4)
    named = range(0, len(lanes), -(-len(lanes) // (2 * ROOMY)))
    axis.set_yticks(named, [lanes[i].name for i in named])
    axis.set_ylim(len(lanes) - 0.5, -0.5)
    axis.margins(x=0)
    axis.grid(visible=False)
