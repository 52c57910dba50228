"""The figures of an experiment: its ``[[figure]]`` tables, read and checked, or else what its columns suggest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from decentral.errors import UserError, nearest
from decentral.report.figure_spec import FigureSpec
from decentral.report.kinds import KINDS
from decentral.report.results import Experiment
from topologies.wording import shown

_LONGEST_STEM = 200  # bytes; with a suffix, and while it is written
LOGS = ("", "x", "y", "xy")


def parse_figure(table: Mapping[str, Any], where: str = "[[figure]]") -> FigureSpec:
    """Check the keys, types and choices of a ``[[figure]]`` table; columns: :func:`check_figure`."""
    keys = {f.name for f in fields(FigureSpec)}
    for key, value in table.items():
        if key not in keys:
            raise UserError(f"{where} has no key {shown(key)}; {nearest(key, keys)}")
        _check_type(where, key, value)
    if not table.get("y"):
        raise UserError(f"{where} names no y; give the column to draw, such as y = 'train_loss'")
    values = dict(table)
    if "group" in values:
        group = values["group"]
        values["group"] = (group,) if isinstance(group, str) else tuple(group)
    spec = FigureSpec(**values)
    _check_choices(where, spec, "x" in table)
    return spec


def figures_of(experiment: Experiment) -> tuple[FigureSpec, ...]:
    """The figures that the experiment asks for, or else those that its columns suggest."""
    tables = experiment.config.get("figure", [])
    specs = tuple(parse_figure(table, f"[[figure]] {i}") for i, table in enumerate(tables, start=1))
    stems = [spec.stem for spec in specs]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UserError(f"[[figure]] name {shown(stem)} is given twice; each figure is a file of its own")
    return specs or tuple(_suggested(experiment))


def check_figure(spec: FigureSpec, experiment: Experiment) -> None:
    """Refuse a figure whose columns or fields the experiment does not have."""
    if KINDS[spec.kind].final:
        _known("y", spec.y, experiment.metrics, "column of results.csv")
        _known("x", spec.x, _fields(experiment) | set(experiment.metrics), "field or column of results.csv")
        if spec.theory:
            _known("theory", spec.theory, experiment.metrics, "column of results.csv")
    else:
        for key, column in (("y", spec.y), ("x", spec.x), ("theory", spec.theory), ("reach", spec.reach)):
            if column and column in experiment.swept and key == "x":
                raise UserError(
                    f"figure {shown(spec.stem)}: x = {shown(column)} is a swept field; say kind = 'final'"
                )
            if column:
                _known(key, column, experiment.columns, "column of metrics.csv")
    for field in spec.group or ():
        _known("group", field, _fields(experiment), "field of the experiment")
    if spec.panel:
        _known("panel", spec.panel, _fields(experiment), "field of the experiment")


def _suggested(experiment: Experiment) -> Iterable[FigureSpec]:
    for y in ("bias_sq", "consensus_sq", "test_accuracy", "train_loss"):
        for x in ("round", "bytes_sent_mean"):
            if y in experiment.columns and x in experiment.columns:
                yield FigureSpec(y=y, x=x)
        # of a network that nobody described it says little
        if y != "train_loss" and y in experiment.columns and "network" in experiment.config:
            yield FigureSpec(y=y, x="simulated_s")


def _fields(experiment: Experiment) -> set[str]:
    """Dotted names of swept and fixed fields: a fixed one makes a single group, which is no mistake."""
    names = set(experiment.swept)
    for run in experiment.runs[:1]:
        for section, table in run.config.items():
            if isinstance(table, Mapping):
                names |= {
                    f"{section}.{key}" for key, value in table.items() if not isinstance(value, Mapping)
                }
    return names


def _known(key: str, name: str, valid: Iterable[str], what: str) -> None:
    names = set(valid)
    if name not in names:
        raise UserError(f"figure {key} = {shown(name)} is no {what}; {nearest(name, names)}")


def _check_type(where: str, key: str, value: object) -> None:
    if key == "graph":
        good, rule = isinstance(value, bool), "true or false"
    elif key == "goal":
        good, rule = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif key == "group" and isinstance(value, list | tuple):
        good, rule = all(isinstance(v, str) for v in value), "a field or a list of fields"
    else:
        good, rule = isinstance(value, str), "text"
    if not good:
        raise UserError(f"{where}: {key} = {shown(value)} must be {rule}")


def _check_choices(where: str, spec: FigureSpec, has_x: bool) -> None:
    if spec.kind not in KINDS:
        raise UserError(f"{where}: kind = {shown(spec.kind)} is unknown; {nearest(spec.kind, KINDS)}")
    if spec.log is not None and spec.log not in LOGS:
        raise UserError(f"{where}: log = {shown(spec.log)} must be one of '', 'x', 'y', 'xy'")
    _check_goal(where, spec)
    if KINDS[spec.kind].final and not has_x:
        raise UserError(
            f"{where}: kind = {shown(spec.kind)} needs x, a swept field such as 'train.lr' or a final column"
        )
    if spec.name and (
        not re.fullmatch(r"[\w][\w.+-]*", spec.name) or len(spec.name.encode()) > _LONGEST_STEM
    ):
        raise UserError(
            f"{where}: name = {shown(spec.name)} must be a file name of letters, digits, '-', '_' or '.', "
            f"{_LONGEST_STEM} at the most"
        )


def _check_goal(where: str, spec: FigureSpec) -> None:
    needs = getattr(KINDS[spec.kind], "needs", ())
    for key in ("reach", "goal"):
        if (getattr(spec, key) not in ("", None)) != (key in needs):
            rule = "needs" if key in needs else "has no meaning for"
            raise UserError(
                f"{where}: kind = {shown(spec.kind)} {rule} {key}; kinds with a goal have both, such as "
                'reach = "train_loss" and goal = 0.1'
            )
