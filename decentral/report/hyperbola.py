"""The trade of rounds against samples to a goal: a hyperbola in two constants, fitted to runs of several batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from decentral.report.results import Array


@dataclass(frozen=True)
class Hyperbola:
    """(S / S_min - 1)(E / E_min - 1) = 1 for S rounds and E samples to a goal (arXiv:1812.06162, equation 2.11).

    With E = B S that is S = S_min (1 + B_crit / B) and E = E_min (1 + B / B_crit), B_crit = E_min / S_min: at a batch
    of B_crit samples both are twice their least. ``factor``: B_crit divided by it and times it is the 95 % interval by
    Student's t from the residuals; nan where there are no more points than constants.
    """

    s_min: float
    e_min: float
    factor: float

    @property
    def b_crit(self) -> float:
        """The critical batch."""
        return self.e_min / self.s_min

    def rounds(self, batch: Array) -> Array:
        """S at batches of these sizes."""
        return self.s_min * (1 + self.b_crit / batch)


def fit(rounds: Array, samples: Array) -> Hyperbola | None:
    """By least squares of log S over log S_min and log B_crit, each point with its own B = E / S.

    The residuals of log E are the same. None where fewer than three batches differ by more than 1 %, or where B_crit
    comes out a hundred times beyond all of them, so that one of the constants is not in the points.
    """
    from scipy.optimize import least_squares
    from scipy.stats import t

    batch = np.log(samples / rounds)
    if len(np.unique(np.round(batch, 2))) < 3:
        return None

    def residuals(p: Array) -> Array:
        return np.asarray(p[0] + np.logaddexp(0.0, p[1] - batch) - np.log(rounds))

    low, high = batch.min() - np.log(100), batch.max() + np.log(100)
    start = [np.log(rounds.min()), batch.mean()]
    found = least_squares(residuals, start, bounds=([-np.inf, low], [np.inf, high]), xtol=1e-15, ftol=1e-15)
    log_s, log_b = found.x
    if min(log_b - low, high - log_b) < 0.01:
        return None
    free = len(rounds) - 2
    factor = np.nan
    if free:
        covariance = np.linalg.inv(found.jac.T @ found.jac) * 2 * found.cost / free
        factor = np.exp(t.ppf(0.975, free) * np.sqrt(covariance[1, 1]))
    return Hyperbola(float(np.exp(log_s)), float(np.exp(log_s + log_b)), float(factor))
