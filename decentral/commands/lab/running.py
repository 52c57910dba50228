"""``decentral lab run``: an experiment in a lab, a rank on each of its workers' cards."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from decentral.commands.lab.asked import Asked
from decentral.commands.lab.clock import cluster_for, for_the_clock
from decentral.commands.lab.launching import decentral, mpirun
from decentral.commands.lab.making import lab, say
from decentral.network.lab.layout import Layout
from decentral.runs.experiment import load
from decentral.runs.out_folder import ended_runs


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
    made = lab(layout)
    if note:
        say(note)
    command = [*decentral(), "run", str(file)]
    command += [word for override in (*overrides, *more) for word in ("--set", override)]
    command += (
        ["--out", str(out)] * (out is not None) + ["--resume"] * resume + ["--tensorboard"] * tensorboard
    )
    return made.around(mpirun(layout, command), lambda sent: _tell(sent, None if resume else folder))


def _tell(sent: dict[str, int], folder: Path | None) -> None:
    """What the cards have sent, beside what the runs' own accounts have."""
    low, high = (f"{size / 1e6:,.3f}" for size in (min(sent.values()), max(sent.values())))
    text = f"cards sent {sum(sent.values()) / 1e6:,.3f} MB ({low} to {high} a node)"
    if folder is not None and (told := _ranks_sent(folder)):
        text += f", training {told / 1e6:,.3f} MB of it between ranks; the rest is headers, the start, and records"
    say(text)


def _ranks_sent(folder: Path) -> int:
    """Bytes that the runs in ``folder`` have sent between ranks."""
    try:
        with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
            return sum(int(float(row.get("mpi_bytes_sent") or 0)) for row in csv.DictReader(file))
    except OSError:
        return 0
