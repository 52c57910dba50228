"""Whether losses have passed their minimum, and where it was: Gaussian process regression of a noisy curve.

    loss(x) = constant + f(x) + noise,    f ~ GP(0, s^2 exp(-(x - x')^2 / (2 0.2^2))),    x in [0, 1]

The constant is the mean of the losses; s^2 and the variance of the noise maximise the marginal likelihood.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LENGTH = 0.2
_FITTED, _CONDITIONED, _GRID, _TESTS = 100, 500, 500, 5  # points at most; points; predictions
_SURE = 0.95
_LEAST_VARIANCE = 1e-4  # of a difference of two losses, beside the predicted one


class Verdict(NamedTuple):
    """``passed``: the newest loss is above an earlier one, most predictions are sure of that.

    ``minima``: where in [0, 1] each prediction has its minimum.
    """

    passed: bool
    minima: tuple[float, ...]


def past_minimum(losses: NDArray[np.float64], rng: np.random.Generator) -> Verdict:
    """The verdict of losses (n,), one a round, at x = 0, 1/n, ..; those that are not finite are left out.

    s^2 and the noise are fitted to 100 of them at the most, and each of 5 predictions is made from 500 at the most,
    which ``rng`` chooses. A prediction is sure where p = max_i Phi((m_last - m_i) / sd(f_i - f_last)) > 0.95 over a
    grid of 500 points. p is a maximum, without a correction for that; what keeps a flat curve from passing is that the
    s^2 fitted to it is almost 0. Alike, whatever the number of threads.
    """
    from threadpoolctl import threadpool_limits

    there = np.flatnonzero(np.isfinite(losses))
    x, y = there / len(losses), losses[there]
    if len(y) < 2 or not y.std():
        return Verdict(False, (1.0,) * _TESTS)
    scale = float(y.std())
    z = (y - y.mean()) / scale
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a variance at one of its bounds
        chosen = _some(len(z), _FITTED, rng)
        kernel = _fitted_kernel(x[chosen], z[chosen])
        predicted = []
        for _ in range(_TESTS):
            chosen = _some(len(z), _CONDITIONED, rng)
            predicted.append(_predicted(kernel, x[chosen], z[chosen]))
    sure = [_most_sure(scale * m, scale**2 * c) > _SURE for m, c in predicted]
    minima = tuple(float(np.argmin(m) / (_GRID - 1)) for m, _ in predicted)
    return Verdict(sum(sure) > _TESTS / 2, minima)


def _some(count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices, ascending."""
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


def _fitted_kernel(x: NDArray[np.float64], z: NDArray[np.float64]) -> Any:
    """s^2 RBF + noise, at the variances of the largest marginal likelihood; z has variance 1."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-4, 1e4)) * RBF(_LENGTH, "fixed") + WhiteKernel(0.1, (1e-6, 1e1))
    return GaussianProcessRegressor(kernel).fit(x[:, None], z).kernel_


def _predicted(
    kernel: Any, x: NDArray[np.float64], z: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (500,) and covariance (500, 500) of the curve without its noise, over a grid."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    regression = GaussianProcessRegressor(kernel.k1, alpha=kernel.k2.noise_level, optimizer=None)
    grid = np.linspace(0, 1, _GRID)[:, None]
    mean, covariance = regression.fit(x[:, None], z).predict(grid, return_cov=True)
    return mean, covariance


def _most_sure(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    """max over i < last of P(f_i < f_last)."""
    own = np.diagonal(covariance)
    variance = (own + own[-1] - 2 * covariance[-1]).clip(0) + _LEAST_VARIANCE
    return float(ndtr((mean[-1] - mean) / np.sqrt(variance))[:-1].max())
