"""Statistics over the seeds of an experiment: a number's mean and spread, and the mean of curves with a band."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from decentral.report.results import Array, Run


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
