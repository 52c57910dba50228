"""Is a method stable on this mixing, and on this problem? Told by running its own text (:mod:`decentral.comm.growth`).

At lr a -> 0 only the mixing is left, which every method must survive on every graph; where the problem's largest
curvature is known, it is checked too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import topologies
from decentral.algorithms.state import tensors_of, with_tensors
from decentral.algorithms.traits import Method, traits_of
from decentral.comm import LocalComm
from decentral.comm import growth as mixing_growth
from decentral.comm.growth import (
    ARNOLDI,
    TOLERANCE,
    ModeComm,
    amplification,
    first_state,
    modes_of,
    radius,
    shown_mode,
)
from decentral.comm.schedule import Mixing
from decentral.errors import UserError
from decentral.problems.capabilities import Linear
from decentral.rounds.trials.needs import unmet

__all__ = [
    "ModeComm",
    "amplification",
    "growth_of_schedule",
    "growth_on_quadratics",
    "refuse_unstable",
    "refuses",
]

_EXACT = 10_000_000  # entries of all Hessians up to which the map of a quadratic problem is looked at whole
_ALLOW = "--set algorithm.allow_unstable=true goes on regardless"


def growth_of_schedule(method: Method[Any], schedule: topologies.Schedule) -> float:
    """Growth a round, apart from consensus, over a period of a mixing that changes."""
    return mixing_growth.growth_of_schedule(method, LocalComm(schedule, check=False), schedule)


def growth_on_quadratics(method: Method[Any], w: Mixing, hessians: NDArray[np.float64], lr: float) -> float:
    """Growth a round of the method's own linear map on f_i = x' H_i x / 2; NaN if that cannot be found."""
    n, d = hessians.shape[:2]
    comm, H = LocalComm(w, check=False).at(0), torch.from_numpy(hessians)
    zero = torch.zeros(n, d, dtype=torch.float64)
    state = first_state(method, zero, comm, lr)
    parts = 1 + len(tensors_of(state))

    def a_round(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        points = torch.from_numpy(np.array(flat).reshape(parts, n, d, -1))
        g = torch.einsum("nde,nek->ndk", H, points[0]).reshape(n, -1)
        x, *rest = points.reshape(parts, n, -1)
        x, last = method.step(x, with_tensors(state, rest), g, comm, lr)
        return np.asarray(torch.stack([x, *tensors_of(last)]).reshape(flat.shape).numpy())

    return radius(a_round, parts * n * d)


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
    modes = modes_of(schedule.matrix(0)) if schedule.period == 1 and is_linear else None
    refused = _divergence(method, schedule, modes)
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
    growth, worst, tolerance = growths.max(), modes[growths.argmax()], TOLERANCE
    dimension = problem.dimension
    if growth > 1 + TOLERANCE and n * dimension**2 <= _EXACT:
        hessians: NDArray[np.float64] = problem.linear_terms(n, seed)[0] + decay * np.eye(dimension)
        exact = growth_on_quadratics(method, w, hessians, lr)
        growth, tolerance = (growth, TOLERANCE) if np.isnan(exact) else (exact, ARNOLDI)
    if growth > 1 + tolerance:
        raise UserError(
            f"{type(method).__name__} diverges at lr * L = {step:.4g} (L: largest curvature): on the eigenvalue "
            f"{shown_mode(worst)} of W the error grows by {growth:.4g} a round ({method}); lower train.lr"
            f"{', or use topology.weights = lazy' if worst.real < 0 else ''}; {_ALLOW}"
        )


def refuses(
    method: Method[Any], schedule: topologies.Schedule, comm: LocalComm | None = None
) -> tuple[float, str, str] | None:
    """(growth a round, where, remedy) if differences between workers grow whatever the learning rate; else None.

    NaN for growth: something that the method needs is not met. ``comm``: all workers on the schedule, for who asks
    for several methods.
    """
    missing = unmet(method, schedule)
    return (float("nan"), *missing) if missing is not None else _divergence(method, schedule, None, comm)


def _divergence(
    method: Method[Any],
    schedule: topologies.Schedule,
    modes: NDArray[Any] | None,
    comm: LocalComm | None = None,
) -> tuple[float, str, str] | None:
    """As :func:`refuses`, of a method that has what it needs."""
    traits = traits_of(method)
    if not traits.linear:
        return None
    comm = comm or LocalComm(schedule, check=False)
    return mixing_growth.divergence(method, traits.least_eigenvalue, comm, schedule, modes)
