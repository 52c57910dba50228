"""The optimum of regularised logistic regression, to machine precision: x* on real data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor
from torch.nn.functional import cross_entropy

from decentral.errors import UserError

if TYPE_CHECKING:
    from decentral.problems.data.dataset import Dataset


def logistic_optimum(dataset: Dataset, shards: list[NDArray[np.int64]], weight_decay: float) -> Tensor:
    """Minimiser of (1/n) sum_i (mean loss over shard i) + weight_decay |x|^2 / 2: (1, d), float64.

    L-BFGS first, then Newton steps with conjugate gradients until the gradient no longer shrinks. Raises UserError
    where that is not near enough to the optimum to tell a distance from it.
    """
    samples = np.concatenate(shards)
    inputs = dataset.train_x[samples].double().flatten(1)
    labels = dataset.train_y[samples]
    each = np.concatenate([np.full(len(s), 1 / (len(s) * len(shards))) for s in shards])
    weights = torch.from_numpy(each)
    features, classes = inputs.shape[1], dataset.classes
    one_hot = torch.nn.functional.one_hot(labels, classes).double()

    def logits(x: Tensor) -> Tensor:
        return inputs @ x[: features * classes].view(classes, features).T + x[features * classes :]

    def pull_back(s: Tensor) -> Tensor:
        return torch.cat([(s.T @ inputs).reshape(-1), s.sum(0)])

    def value_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        x = torch.from_numpy(flat)
        z = logits(x)
        value = (weights * cross_entropy(z, labels, reduction="none")).sum() + weight_decay / 2 * x @ x
        g = pull_back(weights[:, None] * (z.softmax(1) - one_hot)) + weight_decay * x
        return float(value), g.numpy()

    d = (features + 1) * classes
    x = minimize(value_and_gradient, np.zeros(d), jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x
    value, g = value_and_gradient(x)
    for _ in range(50):
        p = logits(torch.from_numpy(x)).softmax(1)

        def hessian(v: NDArray[np.float64], p: Tensor = p) -> NDArray[np.float64]:
            u = torch.from_numpy(np.ascontiguousarray(v).reshape(-1))
            s = logits(u)
            curved = weights[:, None] * p * (s - (p * s).sum(1, keepdim=True))
            return (pull_back(curved) + weight_decay * u).numpy()

        step, _ = cg(LinearOperator((d, d), matvec=hessian, dtype=np.float64), g, rtol=1e-12, maxiter=5 * d)
        before, size = value, float(np.linalg.norm(g))
        x, value, g = _downhill(value_and_gradient, x, value, step)
        if np.linalg.norm(g) >= 0.5 * size and before - value <= _NOISE * abs(before):
            break
    # by strong convexity, how far x can be from the optimum
    if not np.linalg.norm(g) <= _FAR * weight_decay * np.linalg.norm(x):
        raise UserError(
            f"train.weight_decay = {weight_decay} is too small for problem.optimum = true: the optimum cannot be found "
            "to six digits; set it higher, 1e-5 for example, or optimum to false"
        )
    return torch.from_numpy(x)[None]


Objective = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]
_NOISE, _FAR = 1e-14, 1e-6


def _downhill(
    f: Objective, x: NDArray[np.float64], value: float, step: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """(x - step, or less of it if the value would rise by more than rounding; the value there, and the gradient)."""
    for halvings in range(40):
        shorter = x - step * 0.5**halvings
        found, g = f(shorter)
        if found <= value + _NOISE * abs(value):
            break
    return shorter, found, g
