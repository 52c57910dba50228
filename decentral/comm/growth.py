"""How a round of a method makes differences between workers grow: its own text, run on the modes of the mixing matrix.

On an eigenvector of W with eigenvalue lambda, and on quadratics of curvature a, a round is a small linear map
of (x, state). Its spectral radius is the growth a round; above 1 the run diverges. At lr a -> 0 only the mixing
is left, which every method must survive on every graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

import topologies
from decentral.comm.mixer import Mixer
from decentral.comm.stand_ins import AtOnce

TOLERANCE = 1e-9
ARNOLDI = 1e-4
"""How far growth that Arnoldi found may be off."""
_SMALL = 600  # size up to which a linear map is written out as a matrix


class Stepping(Protocol):
    """Of a method what its growth is told by."""

    def init(self, x: Tensor, comm: Any) -> Any:
        """The state before the first round."""

    def step(self, x: Tensor, state: Any, g: Tensor, comm: Any, lr: float) -> tuple[Tensor, Any]:
        """One round."""


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


def amplification(method: Stepping, eigenvalue: Any, step: float, consensus: Any = False) -> Any:
    """Spectral radius of a round on the mode ``eigenvalue``, or on each of many; lr times curvature = ``step``."""
    values = torch.from_numpy(np.atleast_1d(np.asarray(eigenvalue, dtype=np.complex128)))[None]
    comm = ModeComm(values, torch.from_numpy(np.atleast_1d(consensus)))
    zero = torch.zeros_like(values)
    state = first_state(method, zero, comm, 1.0)
    size = 1 + len(tensors_in(state))
    columns = []
    for k in range(size):
        x, *rest = (torch.full_like(zero, float(i == k)) for i in range(size))
        after, last = method.step(x.clone(), with_tensors(state, rest), x * step, comm, 1.0)
        columns.append(torch.cat([after, *tensors_in(last)]))  # (size, modes)
    radii = torch.linalg.eigvals(torch.stack(columns, 1).permute(2, 0, 1)).abs().amax(1).numpy()
    return radii if np.ndim(eigenvalue) else float(radii[0])


def growth_of_schedule(method: Stepping, comm: Mixer, schedule: topologies.Schedule) -> float:
    """Growth a round, apart from consensus, over a period of a mixing that changes.

    Where it never repeats: from round 200 to round 400, when what is passing has passed. ``comm``: all workers here.
    """
    n, rounds = schedule.n, schedule.period or 200
    zero = torch.zeros(n, 1, dtype=torch.float64)
    state = first_state(method, zero, comm.at(0), 1.0)
    parts = 1 + len(tensors_in(state))

    def period(flat: NDArray[np.float64], begin: int = 0) -> NDArray[np.float64]:
        apart = torch.from_numpy(np.array(flat).reshape(parts, n, -1))
        x, *rest = apart - apart.mean(1, keepdim=True)
        last = with_tensors(state, rest)
        for t in range(begin, begin + rounds):
            x, last = method.step(x, last, torch.zeros_like(x), comm.at(t), 1.0)
        after = torch.stack([x, *tensors_in(last)])
        return np.asarray((after - after.mean(1, keepdim=True)).reshape(flat.shape).numpy())

    if schedule.period:
        return float(radius(period, parts * n) ** (1 / rounds))
    if parts * n > _SMALL:
        return 0.0  # unknown
    early = period(np.eye(parts * n))
    late, early_norm = period(early, rounds), np.linalg.norm(early, 2)
    return float((np.linalg.norm(late, 2) / early_norm) ** (1 / rounds)) if early_norm > 1e-200 else 0.0


def first_state(method: Stepping, zero: Tensor, comm: Mixer, lr: float) -> Any:
    """The state of a method that has seen this learning rate, and only zeros."""
    return method.step(zero.clone(), method.init(zero, comm), zero.clone(), comm, lr)[1]


def radius(linear: Callable[[NDArray[np.float64]], NDArray[np.float64]], size: int) -> float:
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


def divergence(
    method: Stepping,
    least: float,
    comm: Mixer,
    schedule: topologies.Schedule,
    modes: NDArray[Any] | None = None,
) -> tuple[float, str, str] | None:
    """(growth a round, where, remedy) if differences between workers grow whatever the learning rate; else None.

    Of a linear method that has what it needs, whose eigenvalues of W must be above ``least``: NaN for growth where one
    is not. ``comm``: all workers here, mixed by ``schedule``. ``modes``: those of a static W, if they are known.
    """
    if modes is None and schedule.period == 1:
        modes = modes_of(schedule.matrix(0))
    if modes is not None and modes.real.min() <= least + TOLERANCE:
        lowest = shown_mode(modes[modes.real.argmin()])
        where = f"every eigenvalue of W above {least:.4g}, and this mixing has {lowest}"
        return float("nan"), where, "use topology.weights = lazy, or exact-diffusion"
    growth, where, tolerance = _growth_of_mixing(method, comm, schedule, modes)
    if growth > 1 + tolerance:
        return float(growth), where, "use a static symmetric graph or less momentum"
    return None


def _growth_of_mixing(
    method: Stepping, comm: Mixer, schedule: topologies.Schedule, modes: NDArray[Any] | None
) -> tuple[float, str, float]:
    """The largest growth apart from consensus at lr -> 0, on what, and how far it may be off."""
    if modes is None:
        growth = growth_of_schedule(method, comm, schedule)
        return growth, ", which varies with time (growth over its period)", ARNOLDI
    growths = amplification(method, modes, 0.0)
    kind = "" if topologies.is_symmetric(schedule.matrix(0)) else " is nonsymmetric (directed), and"
    return growths.max(), f", which{kind} has the eigenvalue {shown_mode(modes[growths.argmax()])}", TOLERANCE


def modes_of(w: sparse.csr_array) -> NDArray[Any]:
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


def tensors_in(state: Any) -> list[Tensor]:
    """The tensors of a state, in order."""
    return [leaf for leaf in tree_flatten(state)[0] if isinstance(leaf, Tensor)]


def with_tensors(state: Any, tensors: Iterable[Tensor]) -> Any:
    """The state with its tensors replaced, in order."""
    leaves, spec = tree_flatten(state)
    fresh = iter(tensors)
    return tree_unflatten([next(fresh) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)


def shown_mode(value: complex) -> str:
    """An eigenvalue in four digits."""
    value = complex(value)
    return f"{value.real:.4g}" if abs(value.imag) < 1e-12 else f"{value.real:.4g}{value.imag:+.4g}i"
