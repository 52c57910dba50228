"""An experiment file: one TOML, made by ``[sweep]``, ``seeds`` and ``--set`` into a grid of runs."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decentral.errors import UserError, nearest
from decentral.report.columns import COLUMNS
from decentral.report.figure_tables import check_figure, figures_of
from decentral.report.results import Experiment as Results
from decentral.report.results import Run
from decentral.runs.kind import Columns
from decentral.runs.kind import Run as Config
from decentral.runs.kinds import SECTIONS, run_of
from decentral.runs.reading import resolved
from decentral.runs.sections.paths import absolute_paths
from decentral.tables import check_values, parse_toml, read_toml
from topologies.wording import LONGEST_VALUE, cut, shown

CASE = "case"
"""An axis of a sweep whose values are tables of several sections: combinations that are no product."""

MOST_RUNS = 10_000
"""Runs of one experiment."""

TOP_LEVEL = ("name", "question", "seeds", *SECTIONS, "sweep", "figure")


@dataclass(frozen=True)
class PlannedRun:
    """A run of the grid: its id, which names its folder; the swept fields by dotted name; its configuration."""

    id: str
    swept: Mapping[str, Any]
    config: Config


@dataclass(frozen=True)
class Experiment:
    """A whole experiment: its table as it is run, and its runs in order."""

    name: str
    table: Mapping[str, Any]
    runs: tuple[PlannedRun, ...]


def load(path: Path, overrides: Sequence[str] = (), ranks: int = 1) -> Experiment:
    """Read, override and check an experiment file. Every run of the grid is checked before any starts.

    ``ranks``: of MPI, on which some columns are not to be had.
    """
    table = read_toml(path, "an experiment file")
    table = {"name": path.stem} | absolute_paths(table, path.parent)
    return expand(table, [parse_override(text) for text in overrides], ranks)


def expand(table: Mapping[str, Any], overrides: Sequence[tuple[str, Any]] = (), ranks: int = 1) -> Experiment:
    """The grid: product of the sweep's axes, times the seeds; overrides come last and win."""
    check_values(table, "the experiment")
    table = {"name": "experiment"} | copy.deepcopy(dict(table))
    for key, value in overrides:
        _override(table, key, value)
    check_values(table, "the experiment")
    for key in table:
        if key not in TOP_LEVEL:
            raise UserError(f"unknown key {cut(key, LONGEST_VALUE)}; {nearest(key, TOP_LEVEL)}")
    if not isinstance(table.get("question", ""), str):
        raise UserError(f"question = {shown(table['question'])} should be a text, for the report")
    base = {k: v for k, v in table.items() if k not in ("sweep", "figure", "question")}
    axes, seeds = list(_axes(table.get("sweep", {}))), _seeds(table)
    _check_count([*(len(values) for _, values in axes), len(seeds)])
    runs: dict[str, PlannedRun] = {}
    for point in itertools.product(*(values for _, values in axes)):
        one = copy.deepcopy(base)
        swept: dict[str, Any] = {}
        for (key, _), value in zip(axes, point, strict=True):
            for name, inner in value.items() if key == CASE else ((key, value),):
                _put(one, name, inner)
                swept |= _flat(name, inner)
        for seed in seeds:
            one["seeds"] = [seed]
            config = run_of(copy.deepcopy(one))
            run_id = _run_id(swept, seed, config)
            runs[run_id] = PlannedRun(run_id, swept, config)
    planned = tuple(_same_fields(list(runs.values())))
    _check_figures(table, planned, ranks)
    return Experiment(table["name"], table, planned)


def parse_override(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``: VALUE as TOML writes it, or else a string."""
    key, equals, value = text.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise UserError(f"--set {shown(text)} should be KEY=VALUE, as in --set train.lr=0.1")
    try:
        read = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        read = {"value": value}
    except (ValueError, RecursionError):  # what is too large or too deep is no text either
        read = parse_toml(f"value = {value}", f"--set {key.strip()}")
    check_values(read, f"--set {key.strip()}")
    return key.strip(), read["value"]


def _override(table: dict[str, Any], key: str, value: Any) -> None:
    """Set a field; where the sweep varies that field, it does so no more."""
    _put(table, key, value)
    if key.split(".")[0] not in SECTIONS:
        return
    axes = dict(_axes(table.pop("sweep", {})))
    for name, fixed in _flat(key, value).items():
        axes.pop(name, None)
        for axis, values in axes.items():
            if axis == CASE or name.startswith(f"{axis}."):
                axes[axis] = _fix(values, name.removeprefix(f"{axis}."), fixed)
    for axis, values in axes.items():
        _put(table.setdefault("sweep", {}), axis, values)


def _fix(values: list[Any], key: str, fixed: Any) -> list[Any]:
    """The tables of an axis with ``fixed`` where they name the dotted ``key``; of those that are then equal, one."""
    tables = [_fixed(v, key, fixed) for v in values]
    return [v for i, v in enumerate(tables) if v not in tables[:i]]


def _fixed(table: Any, key: str, fixed: Any) -> Any:
    first, _, rest = key.partition(".")
    if not isinstance(table, Mapping) or first not in table:
        return table
    return {**table, first: _fixed(table[first], rest, fixed) if rest else fixed}


def _put(table: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c``; a table as value is merged into the section of that name."""
    *parents, last = dotted.split(".")
    for key in parents:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UserError(f"{dotted} cannot be set: {key} = {shown(table)} is no table; set {key} itself")
    if isinstance(value, dict) and isinstance(table.get(last), dict):
        table[last] = {**table[last], **value}
    else:
        table[last] = value


def _axes(sweep: Any, prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    if not isinstance(sweep, Mapping):
        raise UserError(
            f"sweep{prefix and '.' + prefix} = {shown(sweep)} should be a table of lists of values"
        )
    for key, values in sweep.items():
        dotted = f"{prefix}.{key}" if prefix else key
        if dotted.split(".")[0] not in (*SECTIONS, CASE):
            raise UserError(f"unknown key sweep.{dotted}; {nearest(dotted.split('.')[0], (*SECTIONS, CASE))}")
        if dotted == CASE:
            _check_cases(values)
        if isinstance(values, Mapping):
            yield from _axes(values, dotted)
        elif not isinstance(values, list) or not values:
            raise UserError(f"sweep.{dotted} = {shown(values)} should be a non-empty list of values to try")
        elif len({repr(v) for v in values}) < len(values):
            raise UserError(
                f"sweep.{dotted} = {shown(values)} holds a value twice; leave one, and use seeds to repeat runs"
            )
        else:
            yield dotted, values


def _check_cases(cases: Any) -> None:
    """Each case is a table of sections."""
    for case in cases if isinstance(cases, list) else [None]:
        if not isinstance(case, Mapping) or not all(isinstance(part, Mapping) for part in case.values()):
            raise UserError(
                f"sweep.case = {shown(case or cases)} should be a table of sections, "
                'as in [[sweep.case]] and algorithm.name = "dsgd"'
            )
        if unknown := [key for key in case if key not in SECTIONS]:
            raise UserError(f"unknown key sweep.case.{unknown[0]}; {nearest(unknown[0], SECTIONS)}")


def _seeds(table: Mapping[str, Any]) -> list[int]:
    seeds = table.get("seeds", [0])
    whole = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(
            f"seeds = {shown(seeds)} should be a list of different integers, as in seeds = [0, 1, 2]"
        )
    return list(seeds)


def _check_count(choices: Sequence[int]) -> None:
    """Refuse a grid that nobody will wait for."""
    if (count := math.prod(choices)) > MOST_RUNS:
        product = " x ".join(map(str, (n for n in choices if n > 1)))
        raise UserError(
            f"sweep and seeds make {count:,} runs ({product}), and an experiment has {MOST_RUNS:,} at most; try fewer "
            "values, or write several files"
        )


def _flat(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for name, inner in value.items() for k, v in _flat(f"{key}.{name}", inner).items()}
    return {key: value}


_SOME = Columns(
    tuple(name for name, column in COLUMNS.items() if not column.final),
    tuple(name for name, column in COLUMNS.items() if column.final),
)
"""Those of a run that does not tell its own: all that have words."""


def _check_figures(table: Mapping[str, Any], planned: Sequence[PlannedRun], ranks: int) -> None:
    """Refuse figures of columns or fields that no run will have, as drawing them would."""
    figures = table.get("figure", [])
    if not isinstance(figures, list) or not all(isinstance(figure, Mapping) for figure in figures):
        raise UserError(
            f"figure = {shown(figures)} should be tables; write [[figure]] above the keys of each"
        )
    if not figures:
        return
    known = {r.id: r.config.columns(ranks) or _SOME for r in planned}
    runs = [
        Run(
            r.id, "planned", "", r.config.seed, r.swept, {},
            dict.fromkeys(known[r.id].recorded, np.empty(0)), resolved(r.config), {},
        )
        for r in planned
    ]  # fmt: skip
    swept, metrics = (
        tuple(planned[0].swept),
        dict.fromkeys(name for one in known.values() for name in sum(one, ())),
    )
    foreseen = Results(Path(), table["name"], "", "", table, swept, tuple(metrics), tuple(runs), ())
    for spec in figures_of(foreseen):
        check_figure(spec, foreseen)


def _same_fields(runs: list[PlannedRun]) -> Iterator[PlannedRun]:
    """Give every run every swept field: one that only some tables of an axis name has its resolved value."""
    names = list(dict.fromkeys(name for run in runs for name in run.swept))
    for run in runs:
        table = resolved(run.config)
        yield PlannedRun(run.id, {name: run.swept.get(name, _get(table, name)) for name in names}, run.config)


def _get(table: Mapping[str, Any], dotted: str) -> Any:
    value: Any = table
    for key in dotted.split("."):
        value = value.get(key, "") if isinstance(value, Mapping) else ""
    return value


def _run_id(swept: Mapping[str, Any], seed: int, config: Config) -> str:
    """Words to read, alike in whichever order the sweep was written, and a digest that nothing else shares."""
    ordered = sorted(
        swept.items(),
        key=lambda kv: (SECTIONS.index(kv[0].split(".")[0]), not kv[0].endswith(".name"), kv[0]),
    )
    words = [str(v) if k.endswith(".name") else f"{k.split('.')[-1]}-{v}" for k, v in ordered]
    slug = re.sub(r"[^A-Za-z0-9.+-]+", "-", "_".join(words) or config.name)[:80]
    table = resolved(config)
    if (
        table["train"]["device"] == "auto"
    ):  # where it is computed is no part of it, and was "cpu" where nothing is said
        table["train"]["device"] = "cpu"
    digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:8]
    return f"{slug}_seed-{seed}_{digest}"
