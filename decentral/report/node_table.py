"""What each node of a network of nodes cost and how stale its gradients were: a table from the run's own files."""

from __future__ import annotations

from pathlib import Path

from decentral.report.columns import title_of
from decentral.report.results import Experiment
from decentral.report.stored import read_json, remedy_of, understood

SHOWN = 8  # of a histogram


def node_table(experiment: Experiment) -> list[dict[str, str]]:
    """A row for each node that computes, of each run of the first seed that left its files.

    FLOPs are of one message. Staleness: updates of the node between a message's forward and backward pass, and how
    many messages had it.
    """
    rows: list[dict[str, str]] = []
    for run in experiment.runs:
        folder = experiment.folder / "runs" / run.id
        environment = folder / "environment.json"
        if run.seed == experiment.seeds[0] and environment.exists() and (folder / "staleness.json").exists():
            with understood(folder, remedy_of(folder)):
                if place := read_json(environment, remedy_of(folder)).get("place"):
                    rows += _rows(title_of(experiment, run), place, folder)
    return rows


def _rows(title: str, place: dict[str, int], folder: Path) -> list[dict[str, str]]:
    staleness = read_json(folder / "staleness.json", remedy_of(folder))
    costs = read_json(folder / "costs.json", remedy_of(folder))
    flops = {(cost["node"], cost["direction"]): cost["flops"] for cost in costs}
    names = [name for name in place if (name, "forward") in flops]
    return [
        {
            "run": title if i == 0 else "",
            "node": name,
            "worker": str(place[name]),
            **{f"FLOPs {way}": f"{flops.get((name, way), 0):,.0f}" for way in ("forward", "backward")},
            "staleness: messages": _histogram(staleness.get(name, {})),
        }
        for i, name in enumerate(names)
    ]


def _histogram(lags: dict[str, int]) -> str:
    first = [f"{lag}: {lags[lag]}" for lag in sorted(lags, key=int)]
    more = f" … up to {max(map(int, lags))}" if len(first) > SHOWN else ""
    return ", ".join(first[:SHOWN]) + more
