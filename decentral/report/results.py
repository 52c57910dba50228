"""An experiment's folder read back as typed values, and statistics over its seeds."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.errors import UserError
from decentral.report.stored import (
    AGAIN,
    STATUS,
    check_files,
    read_json,
    read_status,
    read_text,
    read_toml,
    remedy_of,
)
from topologies.wording import shown

Value = float | str
Array = NDArray[np.float64]
MISSING = "–"  # the value of a field that a run does not have


class Titled(str):
    """A name out of a file, equal to its text; ``words``: how people write it."""

    words: str

    def __new__(cls, name: str, words: str) -> Titled:
        """The name, with its words."""
        made = super().__new__(cls, name)
        made.words = words
        return made


@dataclass(frozen=True)
class Run:
    """One run: what was chosen, how it ended, and its columns over the rounds."""

    id: str
    status: str
    message: str
    seed: int
    fields: Mapping[str, Value]
    final: Mapping[str, float]
    columns: Mapping[str, Array]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the run reached its last round; only such runs enter a mean."""
        return self.status == "finished"

    def field(self, name: str) -> Value | None:
        """The value of a dotted field, swept or fixed, or a final metric; ``None`` where the run has none such."""
        if name in self.fields:
            return self.fields[name]
        if name in self.final:
            return self.final[name]
        value: Any = self.config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None if value is None or isinstance(value, Mapping) else str(value)
        return float(value)


@dataclass(frozen=True)
class Experiment:
    """All runs of one folder, in the order of ``results.csv``."""

    folder: Path
    name: str
    question: str
    command: str
    config: Mapping[str, Any]
    swept: tuple[str, ...]
    metrics: tuple[str, ...]
    runs: tuple[Run, ...]
    unfinished: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that some run recorded over its rounds."""
        return tuple(dict.fromkeys(c for run in self.runs for c in run.columns))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were run, ascending."""
        return tuple(sorted({run.seed for run in self.runs}))


def read_experiment(folder: Path, titles: Mapping[str, str] | None = None) -> Experiment:
    """Read ``experiment.toml``, ``results.csv`` and ``runs/*`` of an experiment's folder.

    ``titles``: name of a method -> how people write it, :func:`decentral.algorithms.titles.titles`.
    """
    file, folder = _experiment_file(Path(folder)), Path(folder)
    known = {path.parent.name: status_of(path.parent) for path in sorted(folder.glob(f"runs/*/{STATUS}"))}
    config = read_toml(file, AGAIN, any("files" in status for status in known.values()))
    header, rows = _read_csv(folder / "results.csv") if os.path.lexists(folder / "results.csv") else ([], [])
    unfinished = _unfinished(folder, {row["run"] for row in rows if "run" in row})
    if not rows and known:
        raise UserError(f"{folder / 'results.csv'} is missing or empty though runs have ended; {AGAIN}")
    if not rows:
        listed = f"unfinished: {', '.join(unfinished)}; " if unfinished else ""
        raise UserError(f"{folder} has no finished run; {listed}finish it with `decentral run --resume`")
    swept, metrics = _split_header(header, folder / "results.csv")
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


def merge(experiments: Sequence[Experiment]) -> Experiment:
    """Several experiments as one, with ``experiment`` as a swept field before those that differ."""
    if len(experiments) == 1:
        return experiments[0]
    names = [e.name for e in experiments]
    if len(set(names)) < len(names):
        names = [str(e.folder) for e in experiments]
    fields = list(dict.fromkeys(f for e in experiments for f in e.swept))
    runs = [
        replace(run, fields={"experiment": name} | {f: _or_dash(run.field(f)) for f in fields})
        for name, e in zip(names, experiments, strict=True)
        for run in e.runs
    ]
    varying = [f for f in fields if len({run.fields[f] for run in runs}) > 1]
    return replace(
        experiments[0],
        name=" and ".join(names),
        config={k: v for k, v in experiments[0].config.items() if k != "figure"},
        swept=("experiment", *varying),
        metrics=tuple(dict.fromkeys(m for e in experiments for m in e.metrics)),
        runs=tuple(runs),
        unfinished=tuple(u for e in experiments for u in e.unfinished),
    )


def grouped(runs: Iterable[Run], fields: Sequence[str]) -> dict[tuple[Value, ...], list[Run]]:
    """Runs that agree on ``fields``, so that only the seed differs; groups in order of appearance."""
    groups: dict[tuple[Value, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(_or_dash(run.field(f)) for f in fields), []).append(run)
    return groups


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of ``n`` seeds (``nan`` where fewer than two)."""

    n: int
    mean: float
    std: float

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of the mean by Student's t, which takes the seeds as normal."""
        if self.n < 2:
            return math.nan
        from scipy.stats import t

        return float(t.ppf(0.975, self.n - 1)) * self.std / math.sqrt(self.n)


def spread(values: Iterable[float]) -> Spread:
    """Mean and spread of one number per seed; a missing number (``nan``) is left out."""
    v = np.array([x for x in values if not math.isnan(x)])
    if not len(v):
        return Spread(0, math.nan, math.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        return Spread(len(v), float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else math.nan)


def final_values(runs: Iterable[Run], metric: str) -> Array:
    """The final value of ``metric`` of every finished run that has one."""
    values: Array = np.array([run.final.get(metric, math.nan) for run in runs if run.finished])
    kept: Array = values[~np.isnan(values)]
    return kept


@dataclass(frozen=True)
class Curve:
    """The mean over seeds of ``y`` against the mean of ``x``, with a band of one standard deviation."""

    x: Array
    y: Array
    low: Array
    high: Array


def mean_curve(runs: Sequence[Run], x: str, y: str, *, log: bool = False) -> Curve:
    """Average runs over the rounds that all of them recorded; ``log``: see :func:`band`."""
    rounds = [run.columns.get("round", np.arange(len(run.columns[y]), dtype=float)) for run in runs]
    common = reduce(np.intersect1d, rounds)
    rows = [np.searchsorted(r, common) for r in rounds]
    ys = np.stack([run.columns[y][i] for run, i in zip(runs, rows, strict=True)])
    xs = np.stack([run.columns[x][i] for run, i in zip(runs, rows, strict=True)])
    with np.errstate(invalid="ignore", over="ignore"):
        return Curve(xs.mean(0), ys.mean(0), *band(ys, log=log))


def band(samples: Array, *, log: bool) -> tuple[Array, Array]:
    """One sample standard deviation about the mean of axis 0; about and of the logarithm if ``log``.

    A band of ratios stays above zero, where the plain one would leave a logarithmic axis.
    """
    if len(samples) < 2:
        return np.full(samples.shape[1:], np.nan), np.full(samples.shape[1:], np.nan)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        mean = samples.mean(0)
        if not log:
            return mean - samples.std(0, ddof=1), mean + samples.std(0, ddof=1)
        ratio = np.exp(np.log(np.where(samples > 0, samples, np.nan)).std(0, ddof=1))
        return mean / ratio, mean * ratio


def _experiment_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name a folder that `decentral run --out` made")
    if not (folder / "experiment.toml").is_file():
        inside = sorted(p.parent for p in folder.glob("*/experiment.toml"))
        hint = f"; did you mean {inside[0]}?" if inside else "; name one that `decentral run --out` made"
        raise UserError(f"{folder} is no experiment folder: it holds no experiment.toml{hint}")
    return folder / "experiment.toml"


def status_of(home: Path) -> dict[str, Any]:
    """How the run in the folder ``home`` ended. Raises UserError if that or a file that it left is damaged."""
    status = read_status(home, remedy_of(home)) or {}
    check_files(home, status, remedy_of(home))
    return status


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


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, ValueError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} is damaged ({why}); {AGAIN}") from None
    header = lines[0] if lines else []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise UserError(f"{path} row {number} has {len(line)} cells but the header has {len(header)}")
    return header, [dict(zip(header, line, strict=True)) for line in lines[1:]]


def _split_header(header: list[str], path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Swept fields stand between ``run, status, message`` and ``seed``, metrics after it."""
    missing = [c for c in ("run", "status", "message", "seed") if c not in header]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}; it is not one that `decentral run` wrote"
        )
    seed = header.index("seed")
    swept = tuple(c for c in header[:seed] if c not in ("run", "status", "message"))
    return swept, tuple(c for c in header[seed + 1 :])


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
        final={m: _number(row[m]) for m in metrics},
        columns=_read_columns(home / "metrics.csv", required=row["status"] == "finished"),
        config=config,
        environment=facts if isinstance(facts, Mapping) else {},
    )


def _give_title(table: dict[str, Any], key: str, titles: Mapping[str, str]) -> None:
    name = table.get(key)
    if isinstance(name, str) and name in titles:
        table[key] = Titled(name, titles[name])


def _read_columns(path: Path, *, required: bool) -> dict[str, Array]:
    if not os.path.lexists(path):
        if required:
            raise UserError(f"{path} is missing though results.csv calls the run finished; run it again")
        return {}
    header, rows = _read_csv(path)
    return {c: np.array([_number(row[c]) for row in rows]) for c in header}


def _seed(text: str, path: Path) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{path} is damaged (seed = {shown(text)} is no integer); {AGAIN}") from None


def parse_value(text: str) -> Value:
    """A number where the text is one, else the text; ``nan`` stays text, as it equals nothing."""
    number = _number(text)
    return text if math.isnan(number) else number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _or_dash(value: Value | None) -> Value:
    return MISSING if value is None or value == "" else value
