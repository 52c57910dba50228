"""What a figure shows: the validated form of a ``[[figure]]`` table, and its styles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from decentral.errors import UserError, nearest
from decentral.report.columns import axis_label
from decentral.report.results import Array, Experiment, Run, Value, grouped

KINDS = ("curves", "final")
LOGS = ("", "x", "y", "xy")
# Okabe and Ito's colours without yellow, which a white page swallows.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.6, 1.2, 1.6)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


@dataclass(frozen=True)
class FigureSpec:
    """One ``[[figure]]`` table.

    ``kind`` "curves" draws the column ``y`` against the column ``x`` over the rounds, "final" the final
    ``y`` against the swept field ``x``. ``group`` None means all swept fields that are neither ``x`` nor
    ``panel``; ``log`` None means automatic, "" no logarithmic axis.
    """

    y: str
    name: str = ""
    kind: str = "curves"
    x: str = "round"
    group: tuple[str, ...] | None = None
    panel: str = ""
    theory: str = ""
    log: str | None = None
    title: str = ""
    caption: str = ""
    graph: bool = False

    @property
    def stem(self) -> str:
        """The name of the figure's file, without suffix."""
        return self.name or f"{self.y}-{self.x}".replace(".", "-")


def parse_figure(table: Mapping[str, Any], where: str = "[[figure]]") -> FigureSpec:
    """Check the keys, types and choices of a ``[[figure]]`` table; columns: :func:`check_figure`."""
    keys = {f.name for f in fields(FigureSpec)}
    for key, value in table.items():
        if key not in keys:
            raise UserError(f"{where} has no key {key!r}; {nearest(key, keys)}")
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
            raise UserError(f"[[figure]] name {stem!r} is given twice; each figure is a file of its own")
    return specs or tuple(_suggested(experiment))


def check_figure(spec: FigureSpec, experiment: Experiment) -> None:
    """Refuse a figure whose columns or fields the experiment does not have."""
    if spec.kind == "final":
        _known("y", spec.y, experiment.metrics, "column of results.csv")
        _known("x", spec.x, _fields(experiment) | set(experiment.metrics), "field or column of results.csv")
        if spec.theory:
            _known("theory", spec.theory, experiment.metrics, "column of results.csv")
    else:
        for key, column in (("y", spec.y), ("x", spec.x), ("theory", spec.theory)):
            if column and column in experiment.swept and key == "x":
                raise UserError(f"figure {spec.stem!r}: x = {column!r} is a swept field; say kind = 'final'")
            if column:
                _known(key, column, experiment.columns, "column of metrics.csv")
    for field in spec.group or ():
        _known("group", field, _fields(experiment), "field of the experiment")
    if spec.panel:
        _known("panel", spec.panel, _fields(experiment), "field of the experiment")


def group_fields(spec: FigureSpec, experiment: Experiment) -> tuple[str, ...]:
    """The fields that tell one line of the figure from another."""
    if spec.group is not None:
        return spec.group
    placed = [f for f in (spec.x, spec.panel) if f in experiment.swept]
    return telling_fields(experiment, [f for f in experiment.swept if f not in placed], placed)


def telling_fields(
    experiment: Experiment, candidates: Sequence[str], given: Sequence[str] = ()
) -> tuple[str, ...]:
    """The candidates without those that follow from the others, such as a momentum set by the method.

    A name stays: a reader looks for the method, even where its parameters alone would tell it.
    """
    kept = list(candidates)
    for field in (f for f in reversed(candidates) if not f.endswith(".name")):
        fewer = [f for f in kept if f != field]
        if len(grouped(experiment.runs, [*fewer, *given])) == len(grouped(experiment.runs, [*kept, *given])):
            kept = fewer
    return tuple(kept)


@dataclass(frozen=True)
class Scales:
    """Which axes are logarithmic, and the units (in the data's own) that the axes count in."""

    log_x: bool
    log_y: bool
    size_x: float
    size_y: float


def scales_of(spec: FigureSpec, experiment: Experiment) -> Scales:
    """Look at all panels' data at once, so that they share scales and units; diverged runs have no say."""
    runs = [run for run in experiment.runs if run.finished] or list(experiment.runs)
    if spec.kind == "final":
        x = np.array([v for run in runs if isinstance(v := run.field(spec.x), float)])
        y = np.array([run.final.get(spec.y, np.nan) for run in runs])
        log_x = _is_geometric(x)
    else:
        x, y = _joined(runs, spec.x), _joined(runs, spec.y)
        log_x = False
    log_y = _spans_decades(y) and "accuracy" not in spec.y
    if spec.log is not None:
        log_x, log_y = "x" in spec.log, "y" in spec.log
    return Scales(
        log_x=log_x and bool((x > 0).any()),
        log_y=log_y and bool((y > 0).any()),
        size_x=1.0 if spec.kind == "final" else axis_label(spec.x, _peak(x))[1],
        size_y=axis_label(spec.y, _peak(y))[1],
    )


def _joined(runs: Sequence[Run], column: str) -> Array:
    return np.concatenate([np.empty(0), *(run.columns[column] for run in runs if column in run.columns)])


def _peak(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else 0.0


def _spans_decades(values: Array) -> bool:
    """Whether the positive values span more than two decades."""
    positive = values[np.isfinite(values) & (values > 0)]
    return bool(len(positive)) and bool(positive.max() > 100 * positive.min())


def _is_geometric(values: Array) -> bool:
    """Whether swept numbers go by factors (0.001, 0.01, 0.1; 8, 16, 32) rather than by steps."""
    v = np.unique(values)
    if len(v) < 3 or v[0] <= 0:
        return False
    ratios, steps = np.diff(np.log(v)), np.diff(v)
    return bool(ratios.std() / ratios.mean() < steps.std() / steps.mean())


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
        raise UserError(f"figure {key} = {name!r} is no {what}; {nearest(name, names)}")


def _check_type(where: str, key: str, value: object) -> None:
    if key == "graph":
        good, rule = isinstance(value, bool), "true or false"
    elif key == "group" and isinstance(value, list | tuple):
        good, rule = all(isinstance(v, str) for v in value), "a field or a list of fields"
    else:
        good, rule = isinstance(value, str), "text"
    if not good:
        raise UserError(f"{where}: {key} = {value!r} must be {rule}")


def _check_choices(where: str, spec: FigureSpec, has_x: bool) -> None:
    if spec.kind not in KINDS:
        raise UserError(f"{where}: kind = {spec.kind!r} is unknown; {nearest(spec.kind, KINDS)}")
    if spec.log is not None and spec.log not in LOGS:
        raise UserError(f"{where}: log = {spec.log!r} must be one of '', 'x', 'y', 'xy'")
    if spec.kind == "final" and not has_x:
        raise UserError(
            f"{where}: kind = 'final' needs x, a swept field such as 'train.lr' or a final column"
        )
    if spec.name and not re.fullmatch(r"[\w][\w.+-]*", spec.name):
        raise UserError(
            f"{where}: name = {spec.name!r} must be a file name of letters, digits, '-', '_' or '.'"
        )


@dataclass(frozen=True)
class Style:
    """How one group looks; colour, line and marker all differ, so that grey print tells them apart."""

    color: str
    line: Any
    marker: str

    @property
    def look(self) -> dict[str, Any]:
        """As matplotlib's keywords; the white edge keeps a marker apart from a line that it lies on."""
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
        return {"color": self.color, "linestyle": self.line, "marker": self.marker, **edge}


def styles_of(groups: list[tuple[Value, ...]]) -> dict[tuple[Value, ...], Style]:
    """Colour by the first field and line by the others; all by one count where the first tells them apart."""
    firsts = list(dict.fromkeys(g[:1] for g in groups))
    rests = list(dict.fromkeys(g[1:] for g in groups))
    styles = {}
    for i, group in enumerate(groups):
        two_way = 1 < len(firsts) < len(groups)
        color = firsts.index(group[:1]) if two_way else i
        line = rests.index(group[1:]) if two_way else i
        styles[group] = Style(
            COLORS[color % len(COLORS)], LINES[line % len(LINES)], MARKERS[line % len(MARKERS)]
        )
    return styles
