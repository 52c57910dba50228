"""Builds an experiment's folder with numbers of our choosing, so that drawing is tested without training."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decentral.algorithms.titles import titles

TITLES = titles()
HEAD = ("run", "status", "message")


@dataclass
class Made:
    """One run to write: swept fields, seed, and the columns of its ``metrics.csv``."""

    swept: Mapping[str, Any]
    seed: int
    columns: Mapping[str, Sequence[float]]
    status: str = "finished"
    message: str = ""
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """``dsgd-0.1-seed0``."""
        return "-".join([*(str(v) for v in self.swept.values()), f"seed{self.seed}"])


def build(folder: Path, runs: Sequence[Made], toml: str = "", command: str = "decentral run x.toml") -> Path:
    """Write ``folder`` as `decentral run` would; every run must have the same columns."""
    folder.mkdir(parents=True)
    (folder / "experiment.toml").write_text(toml or 'name = "synthetic"\n', encoding="utf-8")
    (folder / "command.txt").write_text(command + "\n", encoding="utf-8")
    swept, columns = list(runs[0].swept), list(runs[0].columns)
    rows = [
        [r.id, r.status, r.message, *r.swept.values(), r.seed, *(r.columns[c][-1] for c in columns)]
        for r in runs
    ]
    _write_csv(folder / "results.csv", [*HEAD, *swept, "seed", *columns], rows)
    for run in runs:
        home = folder / "runs" / run.id
        home.mkdir(parents=True)
        _write_csv(home / "metrics.csv", columns, list(zip(*run.columns.values(), strict=True)))
        (home / "config.toml").write_text(_toml(run.config), encoding="utf-8")
        environment = {"host": "node7", "ranks": 1, "versions": {"torch": "2.9.0", "numpy": "2.4.6"}}
        (home / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    return folder


def small(folder: Path, toml: str = "") -> Path:
    """Two methods, three seeds, three rounds; the loss of seed s is (s + 1) times a factor of the method."""
    runs = [
        Made(
            {"algorithm.name": name},
            seed,
            {
                "round": [0, 10, 20],
                "bytes_sent_mean": [0, 4e6, 8e6],
                "train_loss": [9.0, (seed + 1) * factor * 2, (seed + 1) * factor],
                "test_accuracy": [0.1, 0.5, 0.9 + seed / 100],
                "consensus_sq": [0.0, 0.0, 0.0] if name == "pmsgd" else [0.0, 1e-3, 1e-6],
            },
            config={"topology": {"name": "ring", "workers": 4, "weights": "metropolis"}},
        )
        for name, factor in (("pmsgd", 1.0), ("decentlam", 0.5))
        for seed in (0, 1, 2)
    ]
    return build(folder, runs, toml)


def _toml(config: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for section, table in config.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
