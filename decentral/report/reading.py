"""An experiment's folder read back: ``experiment.toml``, ``results.csv`` and what each run has left."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decentral.errors import UserError
from decentral.report.csv_files import number_of, parse_value, read_columns, read_csv, split_header
from decentral.report.results import Experiment, Run, Titled
from decentral.report.stored import (
    AGAIN,
    STATUS,
    read_json,
    read_text,
    read_toml,
    remedy_of,
    status_of,
)
from topologies.wording import shown


def read_experiment(folder: Path, titles: Mapping[str, str] | None = None) -> Experiment:
    """Read ``experiment.toml``, ``results.csv`` and ``runs/*`` of an experiment's folder.

    ``titles``: name of a method -> how people write it, :func:`decentral.algorithms.titles.titles`.
    """
    file, folder = _experiment_file(Path(folder)), Path(folder)
    known = {path.parent.name: status_of(path.parent) for path in sorted(folder.glob(f"runs/*/{STATUS}"))}
    config = read_toml(file, AGAIN, any("files" in status for status in known.values()))
    header, rows = read_csv(folder / "results.csv") if os.path.lexists(folder / "results.csv") else ([], [])
    unfinished = _unfinished(folder, {row["run"] for row in rows if "run" in row})
    if not rows and known:
        raise UserError(f"{folder / 'results.csv'} is missing or empty though runs have ended; {AGAIN}")
    if not rows:
        listed = f"unfinished: {', '.join(unfinished)}; " if unfinished else ""
        raise UserError(f"{folder} has no finished run; {listed}finish it with `decentral run --resume`")
    swept, metrics = split_header(header, folder / "results.csv")
    for row in rows:
        _check_row(row, metrics, known.get(row["run"]), folder / "results.csv")
    command = folder / "command.txt"
    return Experiment(
        folder=folder,
        name=str(config.get("name", folder.name)),
        question=str(config.get("question", "")).strip(),
        command=read_text(command, "remove it").strip() if os.path.lexists(command) else "",
        config=config,
        swept=swept,
        metrics=metrics,
        runs=tuple(_read_run(folder, row, swept, metrics, titles or {}) for row in rows),
        unfinished=unfinished,
    )


def _experiment_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name a folder that `decentral run --out` made")
    if not (folder / "experiment.toml").is_file():
        inside = sorted(p.parent for p in folder.glob("*/experiment.toml"))
        hint = f"; did you mean {inside[0]}?" if inside else "; name one that `decentral run --out` made"
        raise UserError(f"{folder} is no experiment folder: it holds no experiment.toml{hint}")
    return folder / "experiment.toml"


def _check_row(
    row: Mapping[str, str], metrics: Sequence[str], status: Mapping[str, Any] | None, path: Path
) -> None:
    """Raise UserError where a row of results.csv is not what the run's status tells; older ones tell too little."""
    if status is None or "swept" not in status:
        return
    told = {"status": status["status"], "message": status["message"], "seed": status["seed"]}
    told |= {name: value for name, value in status["swept"].items()} | status["final"]
    texts = {name: "" if value is None else str(value) for name, value in told.items()}
    more = [name for name in metrics if row[name] and name not in texts]
    if more or any(row.get(name) != text for name, text in texts.items()):
        raise UserError(f"{path} is damaged (run {row['run']} is not as it ended); {AGAIN}")


def _unfinished(folder: Path, known: set[str]) -> tuple[str, ...]:
    runs = folder / "runs"
    return (
        tuple(sorted(p.name for p in runs.iterdir() if p.is_dir() and p.name not in known))
        if runs.is_dir()
        else ()
    )


def _read_run(
    folder: Path,
    row: Mapping[str, str],
    swept: Sequence[str],
    metrics: Sequence[str],
    titles: Mapping[str, str],
) -> Run:
    home = folder / "runs" / row["run"]
    environment = home / "environment.json"
    remedy = remedy_of(home)
    config = read_toml(home / "config.toml", remedy) if os.path.lexists(home / "config.toml") else {}
    facts = read_json(environment, remedy) if os.path.lexists(environment) else {}
    fields = {f: parse_value(row[f]) for f in swept}
    if isinstance(config.get("algorithm"), dict):
        _give_title(config["algorithm"], "name", titles)
    _give_title(fields, "algorithm.name", titles)
    return Run(
        id=row["run"],
        status=row["status"],
        message=row["message"],
        seed=_seed(row["seed"], folder / "results.csv"),
        fields=fields,
        final={m: number_of(row[m]) for m in metrics},
        columns=read_columns(home / "metrics.csv", required=row["status"] == "finished"),
        config=config,
        environment=facts if isinstance(facts, Mapping) else {},
    )


def _give_title(table: dict[str, Any], key: str, titles: Mapping[str, str]) -> None:
    name = table.get(key)
    if isinstance(name, str) and name in titles:
        table[key] = Titled(name, titles[name])


def _seed(text: str, path: Path) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{path} is damaged (seed = {shown(text)} is no integer); {AGAIN}") from None
