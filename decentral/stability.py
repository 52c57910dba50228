"""Is a method stable on this mixing? Computed by running the method's own text on one mode of the mixing matrix.

On an eigenvector of W with eigenvalue lambda, and on quadratics of curvature a, a round is a small linear map of
(x, state). Its spectral radius is the growth a round; above 1 the run diverges. At lr a -> 0 only the mixing is left,
which every method must survive on every graph; where the problem's largest curvature is known, it is checked too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs
from torch import Tensor

import topologies
from decentral.comm import LocalComm
from decentral.errors import UserError
from decentral.problems.objective import Linear
from decentral.rounds import tensors_of

_TOLERANCE = 1e-9
_EXACT = 10_000_000  # entries of all Hessians up to which the map of a quadratic problem is looked at whole
_ALLOW = "--set algorithm.allow_unstable=true goes on regardless"
_DENSE = 256  # workers up to which a changing mixing is followed as a whole matrix
_MODES = 1024  # workers up to which all eigenvalues are looked at, not only the extremes


class ModeComm:
    """A communicator on one mode of W: ``mix`` multiplies by its eigenvalue; the mean sees only consensus."""

    n = h = 1

    def __init__(self, eigenvalue: complex, consensus: bool) -> None:
        self.eigenvalue, self.consensus = eigenvalue, consensus

    def mix(self, x: Tensor) -> Tensor:
        """Lambda x."""
        return x * self.eigenvalue

    start = mix

    def finish(self, mixed: Tensor) -> Tensor:
        """What start gave."""
        return mixed

    def mean(self, x: Tensor) -> Tensor:
        """The mean of a consensus is itself, of any other mode zero."""
        return x.clone() if self.consensus else torch.zeros_like(x)


def amplification(method: Any, eigenvalue: complex, step: float, consensus: bool = False) -> float:
    """Spectral radius of one round on the mode ``eigenvalue`` with lr times curvature = ``step``."""
    comm = ModeComm(eigenvalue, consensus)
    warm = _state_after_a_round(method, comm)
    size = 1 + len(tensors_of(warm))
    basis = torch.eye(size, dtype=torch.complex128).unsqueeze(1)  # a row of (1, size) for x and each state tensor
    x, state = method.step(basis[0].clone(), _with(warm, basis[1:]), basis[0] * step, comm, 1.0)
    matrix = torch.cat([x, *tensors_of(state)])
    return float(torch.linalg.eigvals(matrix).abs().max())


def growth_of_schedule(method: Any, schedule: topologies.Schedule) -> float:
    """Growth a round, apart from consensus, over a period of a mixing that changes (or 200 rounds of one without)."""
    comm = LocalComm(schedule)
    n, rounds = schedule.n, schedule.period or 200
    columns = torch.from_numpy(np.linalg.qr(np.c_[np.ones(n), np.eye(n)[:, 1:]])[0][:, 1:])  # orthogonal to 1
    warm = _state_after_a_round(method, comm, n)
    blocks = 1 + len(tensors_of(warm))
    parts = [
        torch.cat([columns if i == j else torch.zeros_like(columns) for j in range(blocks)], 1) for i in range(blocks)
    ]
    x, state = parts[0], _with(warm, parts[1:])
    for t in range(rounds):
        x, state = method.step(x, state, torch.zeros_like(x), comm.at(t), 1.0)
    matrix = torch.cat([columns.T @ part for part in (x, *tensors_of(state))]).numpy()
    radius = np.abs(np.linalg.eigvals(matrix)).max() if schedule.period else np.linalg.norm(matrix, 2)
    return float(radius ** (1 / rounds))


def growth_on_quadratics(method: Any, w: Any, hessians: NDArray[np.float64], lr: float) -> float:
    """Growth a round of the method's own linear map on f_i = x' H_i x / 2, by Arnoldi; NaN if that does not converge."""
    n, d = hessians.shape[:2]
    comm, H = LocalComm(w), torch.from_numpy(hessians)
    warm = _state_after_a_round(method, comm, n, lr)
    parts = 1 + len(tensors_of(warm))

    def a_round(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        x, *rest = torch.from_numpy(flat.reshape(-1)).view(parts, n, d).clone()
        g = (H @ x.unsqueeze(-1)).squeeze(-1)
        x, state = method.step(x, _with(warm, rest), g, comm, lr)
        return torch.stack([x, *tensors_of(state)]).reshape(-1).numpy()

    size = parts * n * d
    first = np.random.default_rng(0).standard_normal(size)
    try:
        values = eigs(LinearOperator((size, size), a_round, dtype=float), 1, v0=first, tol=1e-8, maxiter=500)[0]
    except (ArpackNoConvergence, TypeError):  # TypeError: the matrix is too small for Arnoldi
        return float("nan")
    return float(np.abs(values).max())


def refuse_unstable(method: Any, schedule: topologies.Schedule, lr: float, problem: Any, seed: int, decay: float) -> None:
    """Raise UserError with the reason if the method is bound to diverge on this mixing or on this problem.

    On quadratics the whole map is looked at where it is small enough, else the mode of the largest curvature.
    """
    if schedule.n == 1:
        return
    growth, mode = _growth_of_mixing(method, schedule)
    if growth > 1 + _TOLERANCE:
        raise UserError(
            f"{type(method).__name__} diverges on this mixing{mode}: differences between workers grow by {growth:.4g} "
            f"a round, whatever the learning rate ({method}); use a static symmetric graph or less momentum; {_ALLOW}"
        )
    if not isinstance(problem, Linear) or schedule.period != 1:
        return
    w = schedule.matrix(0)
    step = lr * (problem.largest_curvature(schedule.n, seed) + decay)
    modes = [(1.0, True), *((value, False) for value in _modes(w))]
    growth, worst = max(((amplification(method, v, step, one), v) for v, one in modes), key=lambda pair: pair[0])
    if growth > 1 + _TOLERANCE and schedule.n * problem.dimension**2 <= _EXACT:  # type: ignore[attr-defined]
        hessians = problem.linear_terms(schedule.n, seed)[0] + decay * np.eye(problem.dimension)  # type: ignore[attr-defined]
        exact = growth_on_quadratics(method, w, hessians, lr)
        growth = growth if np.isnan(exact) else exact
    if growth > 1 + _TOLERANCE:
        raise UserError(
            f"{type(method).__name__} diverges at lr * L = {step:.4g} (L: largest curvature): on the eigenvalue "
            f"{_show(worst)} of W the error grows by {growth:.4g} a round ({method}); lower train.lr, or if that "
            f"eigenvalue is negative use topology.weights = lazy; {_ALLOW}"
        )


def _growth_of_mixing(method: Any, schedule: topologies.Schedule) -> tuple[float, str]:
    """The largest growth apart from consensus at lr -> 0, and on what."""
    if schedule.period != 1:
        if schedule.n > _DENSE:
            return 0.0, ""
        return growth_of_schedule(method, schedule), ", which varies with time (growth over its period)"
    w = schedule.matrix(0)
    growth, worst = max(((amplification(method, value, 0.0), value) for value in _modes(w)), key=lambda pair: pair[0])
    kind = "" if topologies.is_symmetric(w) else " is nonsymmetric (directed), and"
    return growth, f", which{kind} has the eigenvalue {_show(worst)}"


def _modes(w: Any) -> NDArray[Any]:
    """Eigenvalues of W apart from one eigenvalue 1: all of them, or the extremes and a line between them."""
    n = w.shape[0]
    if n == 1:
        return np.empty(0)
    if n <= _MODES:
        values = topologies.eigenvalues(w)
        return np.delete(values, np.abs(values - 1).argmin())
    spectrum = topologies.spectrum(w)
    return np.linspace(spectrum.last, spectrum.second, 65)


def _state_after_a_round(method: Any, comm: Any, n: int = 1, lr: float = 1.0) -> Any:
    """A state that has seen the learning rate."""
    x = torch.zeros(n, 1, dtype=torch.float64)
    return method.step(x, method.init(x, comm), x.clone(), comm, lr)[1]


def _with(state: Any, tensors: Any) -> Any:
    """The state with its tensors replaced, in order, by copies."""
    replacement = iter(tensors)
    fields = [next(replacement).clone() if isinstance(s, Tensor) else s for s in state]
    return type(state)(*fields) if hasattr(state, "_fields") else tuple(fields)


def _show(value: complex) -> str:
    value = complex(value)
    return f"{value.real:.4g}" if abs(value.imag) < 1e-12 else f"{value.real:.4g}{value.imag:+.4g}i"
