"""What each stage of a layer-parallel run sent, kept and was late by: a table from the run's own files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from decentral.report.columns import title_of
from decentral.report.results import Experiment, Run
from decentral.report.stored import read_json, remedy_of, understood

PEERS = ("gossip", "all-reduce")


def stage_table(experiment: Experiment) -> list[dict[str, str]]:
    """A row for each stage of each run of the first seed that left its files.

    Bytes are means over steps and workers: to stages above (activations), to stages below (gradients), to the same
    stage of other workers. Kept activations: the most that autograd held of one worker's stage at a time. Staleness:
    updates between a batch's forward pass and its own update, and how many batches had it.
    """
    rows: list[dict[str, str]] = []
    for run in experiment.runs:
        folder = experiment.folder / "runs" / run.id
        if run.seed == experiment.seeds[0] and (folder / "activation_bytes.json").exists():
            with understood(folder, remedy_of(folder)):
                rows += _rows(title_of(experiment, run), run, folder)
    for key in ("to peers (B a step)", "staleness: batches"):
        if all(row[key] in ("0", "") for row in rows):
            for row in rows:
                del row[key]
    return rows


def _rows(title: str, run: Run, folder: Path) -> list[dict[str, str]]:
    cut = read_json(folder / "environment.json", remedy_of(folder))["cut"]
    kept, late = _read(folder, "activation_bytes"), _read(folder, "staleness")
    count = len(cut)
    workers = run.config.get("topology", {}).get("workers", 1)
    sent: Counter[tuple[int, str]] = Counter()
    for channel in read_json(folder / "boundaries.json", remedy_of(folder)):
        source, target = channel["source"] % count, channel["target"] % count
        way = "peers" if channel["name"] in PEERS else "above" if target > source else "below"
        sent[source, way] += channel["bytes"]
    steps = run.final["round"] * workers
    return [
        {
            "run": title if k == 0 else "",
            "stage": str(k),
            "layers": f"{start} to {stop - 1}" if stop - start > 1 else str(start),
            **{f"to {way} (B a step)": f"{sent[k, way] / steps:,.0f}" for way in ("above", "below", "peers")},
            "kept activations (B)": f"{kept[str(k)]:,.0f}",
            "staleness: batches": _histogram(late, k, count),
        }
        for k, (start, stop) in enumerate(cut)
    ]


def _read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / f"{name}.json", remedy_of(folder))
    return found


def _histogram(late: dict[str, Any], stage: int, count: int) -> str:
    """Summed over workers: "0: 3, 1: 497"."""
    total: Counter[int] = Counter()
    for number, histogram in late.items():
        if int(number) % count == stage:
            total.update({int(lag): many for lag, many in histogram.items()})
    return ", ".join(f"{lag}: {many}" for lag, many in sorted(total.items()))
