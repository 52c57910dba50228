"""Is a method stable on this mixing? Told by running the method's own text on the modes of the mixing matrix.

On an eigenvector of W with eigenvalue lambda, and on quadratics of curvature a, a round is a small linear map
of (x, state). Its spectral radius is the growth a round; above 1 the run diverges. At lr a -> 0 only the mixing
is left, which every method must survive on every graph; where the problem's largest curvature is known, it is
checked too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs
from torch import Tensor

import topologies
from decentral.algorithms.state import tensors_of, with_tensors
from decentral.algorithms.traits import Method, traits_of
from decentral.comm import LocalComm, Mixer
from decentral.comm.communicator import Mixing
from decentral.comm.stand_ins import AtOnce
from decentral.errors import UserError
from decentral.problems.capabilities import Linear
from decentral.rounds.trials.needs import unmet

_TOLERANCE = 1e-9
_ARNOLDI = 1e-4  # how far growth that Arnoldi found may be off
_EXACT = 10_000_000  # entries of all Hessians up to which the map of a quadratic problem is looked at whole
_SMALL = 600  # size up to which a linear map is written out as a matrix
_ALLOW = "--set algorithm.allow_unstable=true goes on regardless"


class ModeComm(AtOnce):
    """A mixer on modes of W, one a column: mixing multiplies by the eigenvalue, a mean sees consensus."""

    n = h = 1
    t = 0  # of methods that do more in some rounds, an ordinary one

    def __init__(self, eigenvalues: Tensor, consensus: Tensor) -> None:
        self.eigenvalues, self.consensus = eigenvalues, consensus

    def mix(self, x: Tensor) -> Tensor:
        """Lambda x."""
        return x * self.eigenvalues

    def mean(self, x: Tensor) -> Tensor:
        """The mean of a consensus is itself, of any other mode zero."""
        return x * self.consensus


def amplification(method: Method[Any], eigenvalue: Any, step: float, consensus: Any = False) -> Any:
    """Spectral radius of a round on the mode ``eigenvalue``, or on each of many; lr times curvature = ``step``."""
    values = torch.from_numpy(np.atleast_1d(np.asarray(eigenvalue, dtype=np.complex128)))[None]
    comm = ModeComm(values, torch.from_numpy(np.atleast_1d(consensus)))
    zero = torch.zeros_like(values)
    state = _state(method, zero, comm, 1.0)
    size = 1 + len(tensors_of(state))
    columns = []
    for k in range(size):
        x, *rest = (torch.full_like(zero, float(i == k)) for i in range(size))
        after, last = method.step(x.clone(), with_tensors(state, rest), x * step, comm, 1.0)
        columns.append(torch.cat([after, *tensors_of(last)]))  # (size, modes)
    radius = torch.linalg.eigvals(torch.stack(columns, 1).permute(2, 0, 1)).abs().amax(1).numpy()
    return radius if np.ndim(eigenvalue) else float(radius[0])


def growth_of_schedule(method: Method[Any], schedule: topologies.Schedule) -> float:
    """Growth a round, apart from consensus, over a period of a mixing that changes.

    Where it never repeats: from round 200 to round 400, when what is passing has passed.
    """
    comm, n, rounds = LocalComm(schedule), schedule.n, schedule.period or 200
    zero = torch.zeros(n, 1, dtype=torch.float64)
    state = _state(method, zero, comm, 1.0)
    parts = 1 + len(tensors_of(state))

    def period(flat: NDArray[np.float64], begin: int = 0) -> NDArray[np.float64]:
        apart = torch.from_numpy(np.array(flat).reshape(parts, n, -1))
        x, *rest = apart - apart.mean(1, keepdim=True)
        last = with_tensors(state, rest)
        for t in range(begin, begin + rounds):
            x, last = method.step(x, last, torch.zeros_like(x), comm.at(t), 1.0)
        after = torch.stack([x, *tensors_of(last)])
        return np.asarray((after - after.mean(1, keepdim=True)).reshape(flat.shape).numpy())

    if schedule.period:
        return float(_radius(period, parts * n) ** (1 / rounds))
    if parts * n > _SMALL:
        return 0.0  # unknown
    early = period(np.eye(parts * n))
    late, early_norm = period(early, rounds), np.linalg.norm(early, 2)
    return float((np.linalg.norm(late, 2) / early_norm) ** (1 / rounds)) if early_norm > 1e-200 else 0.0


def growth_on_quadratics(method: Method[Any], w: Mixing, hessians: NDArray[np.float64], lr: float) -> float:
    """Growth a round of the method's own linear map on f_i = x' H_i x / 2; NaN if that cannot be found."""
    n, d = hessians.shape[:2]
    comm, H = LocalComm(w), torch.from_numpy(hessians)
    zero = torch.zeros(n, d, dtype=torch.float64)
    state = _state(method, zero, comm, lr)
    parts = 1 + len(tensors_of(state))

    def a_round(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        points = torch.from_numpy(np.array(flat).reshape(parts, n, d, -1))
        g = torch.einsum("nde,nek->ndk", H, points[0]).reshape(n, -1)
        x, *rest = points.reshape(parts, n, -1)
        x, last = method.step(x, with_tensors(state, rest), g, comm, lr)
        return np.asarray(torch.stack([x, *tensors_of(last)]).reshape(flat.shape).numpy())

    return _radius(a_round, parts * n * d)


def _state(method: Method[Any], zero: Tensor, comm: Mixer, lr: float) -> Any:
    """The state of a method that has seen this learning rate, and only zeros."""
    return method.step(zero.clone(), method.init(zero, comm), zero.clone(), comm, lr)[1]


def _radius(linear: Callable[[NDArray[np.float64]], NDArray[np.float64]], size: int) -> float:
    """Spectral radius of the map of (size, ...) to itself; NaN if Arnoldi does not find it."""
    if size <= _SMALL:
        return float(np.abs(np.linalg.eigvals(linear(np.eye(size)))).max())
    first = np.random.default_rng(0).standard_normal(size)
    if not linear(first).any():
        return 0.0  # an exact average leaves no difference, and Arnoldi nowhere to begin
    try:
        whole = LinearOperator((size, size), linear, dtype=float)
        values, _ = eigs(whole, 1, v0=first, ncv=40, tol=1e-5, maxiter=60)  # some 1,000 rounds at the most
    except ArpackNoConvergence:
        return float("nan")
    return float(np.abs(values).max())


def refuse_unstable(
    method: Method[Any], schedule: topologies.Schedule, lr: float, problem: Any, seed: int, decay: float
) -> None:
    """Raise UserError with the reason if the method is bound to diverge on this mixing or on this problem.

    The mixing must be what the method needs (:mod:`decentral.rounds.trials.needs`).

    On quadratics the whole map is looked at where it is small enough, else the mode of the largest curvature.
    """
    if schedule.n == 1:
        return
    is_linear = traits_of(method).linear
    modes = _modes(schedule.matrix(0)) if schedule.period == 1 and is_linear else None
    refused = _diverges(method, schedule, modes)
    if refused is not None:
        growth, where, remedy = refused
        if np.isnan(growth):
            raise UserError(f"{type(method).__name__} needs {where}; {remedy}; {_ALLOW}")
        raise UserError(
            f"{type(method).__name__} diverges on this mixing{where}: differences between workers grow by "
            f"{growth:.4g} a round, whatever the learning rate ({method}); {remedy}; {_ALLOW}"
        )
    if not isinstance(problem, Linear) or modes is None:
        return
    w, n = schedule.matrix(0), schedule.n
    step = lr * (problem.largest_curvature(n, seed) + decay)
    modes = np.append(modes, 1.0)
    growths = amplification(method, modes, step, np.arange(len(modes)) == len(modes) - 1)
    growth, worst, tolerance = growths.max(), modes[growths.argmax()], _TOLERANCE
    dimension = problem.dimension
    if growth > 1 + _TOLERANCE and n * dimension**2 <= _EXACT:
        hessians: NDArray[np.float64] = problem.linear_terms(n, seed)[0] + decay * np.eye(dimension)
        exact = growth_on_quadratics(method, w, hessians, lr)
        growth, tolerance = (growth, _TOLERANCE) if np.isnan(exact) else (exact, _ARNOLDI)
    if growth > 1 + tolerance:
        raise UserError(
            f"{type(method).__name__} diverges at lr * L = {step:.4g} (L: largest curvature): on the eigenvalue "
            f"{_show(worst)} of W the error grows by {growth:.4g} a round ({method}); lower train.lr"
            f"{', or use topology.weights = lazy' if worst.real < 0 else ''}; {_ALLOW}"
        )


def refuses(
    method: Method[Any], schedule: topologies.Schedule, modes: NDArray[Any] | None = None
) -> tuple[float, str, str] | None:
    """(growth a round, where, remedy) if differences between workers grow whatever the learning rate; else None.

    NaN for growth: something that the method needs is not met. ``modes``: those of a static W, if they are known.
    """
    missing = unmet(method, schedule)
    return (float("nan"), *missing) if missing is not None else _diverges(method, schedule, modes)


def _diverges(
    method: Method[Any], schedule: topologies.Schedule, modes: NDArray[Any] | None
) -> tuple[float, str, str] | None:
    """As :func:`refuses`, of a method that has what it needs."""
    if not traits_of(method).linear:
        return None
    if modes is None and schedule.period == 1:
        modes = _modes(schedule.matrix(0))
    least = traits_of(method).least_eigenvalue
    if modes is not None and modes.real.min() <= least + _TOLERANCE:
        lowest = _show(modes[modes.real.argmin()])
        where = f"every eigenvalue of W above {least:.4g}, and this mixing has {lowest}"
        return float("nan"), where, "use topology.weights = lazy, or exact-diffusion"
    growth, where, tolerance = _growth_of_mixing(method, schedule, modes)
    if growth > 1 + tolerance:
        return float(growth), where, "use a static symmetric graph or less momentum"
    return None


def _growth_of_mixing(
    method: Method[Any], schedule: topologies.Schedule, modes: NDArray[Any] | None
) -> tuple[float, str, float]:
    """The largest growth apart from consensus at lr -> 0, on what, and how far it may be off."""
    if modes is None:
        growth = growth_of_schedule(method, schedule)
        return growth, ", which varies with time (growth over its period)", _ARNOLDI
    growths = amplification(method, modes, 0.0)
    kind = "" if topologies.is_symmetric(schedule.matrix(0)) else " is nonsymmetric (directed), and"
    return growths.max(), f", which{kind} has the eigenvalue {_show(modes[growths.argmax()])}", _TOLERANCE


def _modes(w: sparse.csr_array) -> NDArray[Any]:
    """Eigenvalues of W apart from one eigenvalue 1: all, or where those are too many the outermost."""
    try:
        values = topologies.eigenvalues(w)
    except ValueError:  # of many workers they are known for circulant matrices only
        if topologies.is_symmetric(w):
            spectrum = topologies.spectrum(w)
            return np.linspace(spectrum.last or 0.0, spectrum.second or 0.0, 65)
        values = np.concatenate([_outermost(w, which) for which in ("LM", "SR", "LI")])
    return np.asarray(np.delete(values, np.abs(values - 1).argmin()))


def _outermost(w: sparse.csr_array, which: str) -> NDArray[Any]:
    first = np.random.default_rng(0).standard_normal(w.shape[0])
    try:
        found = eigs(w, 6, which=which, v0=first, tol=1e-6, return_eigenvectors=False)
    except ArpackNoConvergence as error:
        found = error.eigenvalues
    return np.asarray(found)


def _show(value: complex) -> str:
    value = complex(value)
    return f"{value.real:.4g}" if abs(value.imag) < 1e-12 else f"{value.real:.4g}{value.imag:+.4g}i"
