"""The optimum of regularised logistic regression, to machine precision: x* on real data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from decentral.problems.data.dataset import Dataset


def logistic_optimum(dataset: Dataset, shards: list[NDArray[np.int64]], weight_decay: float) -> Tensor:
    """Minimiser of (1/n) sum_i (mean loss over shard i) + weight_decay |x|^2 / 2: (1, d), float64.

    L-BFGS first, then Newton steps with conjugate gradients until the gradient no longer shrinks.
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
    size = float("inf")
    for _ in range(50):
        _, g = value_and_gradient(x)
        if np.linalg.norm(g) >= 0.5 * size:
            break
        size = float(np.linalg.norm(g))
        p = logits(torch.from_numpy(x)).softmax(1)

        def hessian(v: NDArray[np.float64], p: Tensor = p) -> NDArray[np.float64]:
            u = torch.from_numpy(np.ascontiguousarray(v).reshape(-1))
            s = logits(u)
            curved = weights[:, None] * p * (s - (p * s).sum(1, keepdim=True))
            return (pull_back(curved) + weight_decay * u).numpy()

        step, _ = cg(LinearOperator((d, d), matvec=hessian, dtype=np.float64), g, rtol=1e-12, maxiter=5 * d)
        x = x - step
    return torch.from_numpy(x)[None]
