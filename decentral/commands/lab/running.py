"""``decentral lab run``: an experiment in a lab, a rank on each of its workers' cards."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from decentral.commands.lab.asked import Asked
from decentral.commands.lab.clock import cluster_for, for_the_clock
from decentral.commands.lab.launching import decentral, mpirun
from decentral.commands.lab.making import lab, say
from decentral.network.lab.layout import Layout
from decentral.runs.experiment import load
from decentral.runs.out_folder import ended_runs

MOST_LINES = 12
"""Runs whose clocks are told; those of more are in results.csv."""


def run(
    asked: Asked, file: Path, overrides: Sequence[str], out: Path | None, resume: bool, tensorboard: bool
) -> int:
    """The exit code of ``decentral run`` there. Raises UserError before anything is made."""
    experiment = load(file, overrides)
    cluster = cluster_for(asked, experiment)
    layout = Layout(cluster)
    more, note = for_the_clock(asked, cluster, file, overrides, experiment)
    folder = out or Path("results") / experiment.name
    ended_runs(load(file, [*overrides, *more]), folder, resume)  # refuses a folder of something else
    made = lab(layout, file, folder, *([asked.hosts] if asked.hosts else []))
    if note:
        say(note)
    command = [*decentral(), "run", str(file)]
    command += [word for override in (*overrides, *more) for word in ("--set", override)]
    command += (
        ["--out", str(out)] * (out is not None) + ["--resume"] * resume + ["--tensorboard"] * tensorboard
    )
    shared = len(layout.nodes) < cluster.n

    def after(sent: dict[str, int]) -> None:
        ended = _ended(folder)
        for row in ended if len(ended) <= MOST_LINES else []:
            _compare(row)
        _tell(sent, 0 if resume else sum(int(float(row.get("mpi_bytes_sent") or 0)) for row in ended), shared)

    return made.around(mpirun(layout, command), after)


def _compare(row: Mapping[str, str]) -> None:
    """The two clocks of a run, side by side."""
    if row.get("wall_s") and row.get("simulated_s"):
        wall_s, simulated_s = float(row["wall_s"]), float(row["simulated_s"])
        ratio = f", {wall_s / simulated_s:.2f} times" if simulated_s else ""
        say(f"{row['run']}: wall_s {wall_s:.3g}, simulated_s {simulated_s:.3g}{ratio}")


def _tell(sent: Mapping[str, int], told: int, shared: bool) -> None:
    """What the cards have sent, beside what training says that it sent between ranks; ``shared``: of a node, too."""
    low, high = (f"{size / 1e6:,.3f}" for size in (min(sent.values()), max(sent.values())))
    text = f"cards sent {sum(sent.values()) / 1e6:,.3f} MB ({low} to {high} a node)"
    if told:
        text += f"; training's messages between ranks {told / 1e6:,.3f} MB"
        text += ", those inside nodes too" if shared else ", the rest is headers, the start, and records"
    say(text)


def _ended(folder: Path) -> list[dict[str, str]]:
    """The rows of results.csv, if there is one."""
    try:
        with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []
