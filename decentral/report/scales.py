"""The scales of a figure: which axes are logarithmic, and in which units they count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decentral.report.columns import axis_label
from decentral.report.figure_spec import FigureSpec
from decentral.report.kinds import KINDS
from decentral.report.results import Array, Experiment, Run
from decentral.report.scene import Scales


def scales_of(spec: FigureSpec, experiment: Experiment) -> Scales:
    """Look at all panels' data at once, so that they share scales and units; diverged runs have no say."""
    runs = [run for run in experiment.runs if run.finished] or list(experiment.runs)
    final = KINDS[spec.kind].final
    if final:
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
        size_x=1.0 if final else axis_label(spec.x, _peak(x))[1],
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
