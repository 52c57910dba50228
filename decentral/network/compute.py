"""How long the workers compute in a round, by name: ``COMPUTE_TIMES``.

A model draws the seconds of round t for a range of workers, from the stream (seed, "compute-time", t). Worker w has the
w-th number of that stream whatever range is asked for, so any round can be drawn again, on any rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from decentral.errors import UserError
from topologies.streams import stream


class ComputeTime(Protocol):
    """A frozen value that draws compute times."""

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """(len(workers),) seconds that consecutive workers compute in round t = 0, 1, ..."""

    def check(self, n: int) -> None:
        """Raises UserError if the model does not fit a run of n workers."""


@dataclass(frozen=True)
class Constant:
    """Every worker computes ``compute_s`` in every round."""

    compute_s: float

    def __post_init__(self) -> None:
        _not_negative(self, "compute_s")

    def check(self, n: int) -> None:
        """See :class:`ComputeTime`: any n will do."""

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """See :class:`ComputeTime`."""
        del t, seed
        return np.full(len(workers), self.compute_s)


@dataclass(frozen=True)
class ShiftedExponential:
    """``shift_s`` + ``mean_s`` Exp(1), drawn anew for each worker and round."""

    mean_s: float
    shift_s: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(self, "mean_s", "shift_s")

    def check(self, n: int) -> None:
        """See :class:`ComputeTime`: any n will do."""

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """See :class:`ComputeTime`."""
        return self.shift_s + self.mean_s * _drawn(np.random.Generator.standard_exponential, t, workers, seed)


@dataclass(frozen=True)
class Lognormal:
    """``median_s`` exp(``sigma`` N(0, 1)), drawn anew for each worker and round."""

    median_s: float
    sigma: float

    def __post_init__(self) -> None:
        _not_negative(self, "median_s", "sigma")

    def check(self, n: int) -> None:
        """See :class:`ComputeTime`: any n will do."""

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """See :class:`ComputeTime`."""
        return self.median_s * np.exp(
            self.sigma * _drawn(np.random.Generator.standard_normal, t, workers, seed)
        )


@dataclass(frozen=True)
class OneSlowWorker:
    """``compute_s``, and ``factor`` times that for the one worker ``worker``, in every round."""

    compute_s: float
    factor: float
    worker: int = 0

    def __post_init__(self) -> None:
        _not_negative(self, "compute_s", "factor", "worker")

    def check(self, n: int) -> None:
        """See :class:`ComputeTime`: the slow worker must be one of them."""
        if self.worker >= n:
            raise UserError(f"worker = {self.worker} is none of {n} workers; use 0 to {n - 1}")

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """See :class:`ComputeTime`."""
        del t, seed
        slow = np.arange(workers.start, workers.stop) == self.worker
        return self.compute_s * np.where(slow, self.factor, 1.0)


@dataclass(frozen=True)
class Stalls:
    """``compute_s``, and with probability ``probability`` ``stall_s`` more, drawn anew for each worker and round."""

    compute_s: float
    stall_s: float
    probability: float

    def __post_init__(self) -> None:
        _not_negative(self, "compute_s", "stall_s", "probability")
        if self.probability > 1:
            raise UserError(f"probability = {self.probability} must be in [0, 1]")

    def check(self, n: int) -> None:
        """See :class:`ComputeTime`: any n will do."""

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """See :class:`ComputeTime`."""
        stalled = _drawn(np.random.Generator.random, t, workers, seed) < self.probability
        return np.where(stalled, self.compute_s + self.stall_s, self.compute_s)


@dataclass(frozen=True)
class Trace:
    """Recorded times: a csv without a header, a line a round, a column a worker; after its last line the first again.

    ``#`` begins a comment. Raises UserError where the file is none such.
    """

    path: str
    seconds: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            lines = Path(self.path).read_text(encoding="utf-8").splitlines()
            rows = [[float(word) for word in text.split(",")] for text in map(_data, lines) if text]
            if len({len(row) for row in rows}) > 1:
                raise ValueError("its lines have different numbers of columns")
        except (OSError, ValueError) as error:
            raise UserError(
                f"path = {self.path}: {error}; expected a csv, a line a round, a column a worker"
            ) from None
        found = np.array(rows, dtype=np.float64)
        if not found.size:
            raise UserError(f"path = {self.path} holds no times; give a line of seconds for each round")
        bad = np.argwhere(~((found >= 0) & np.isfinite(found)))
        if len(bad):
            t, w = bad[0].tolist()
            raise UserError(
                f"path = {self.path}: {found[t, w]} s of worker {w} in round {t} must be finite and not negative"
            )
        object.__setattr__(self, "seconds", found)

    def check(self, n: int) -> None:
        """See :class:`ComputeTime`: a column for each worker."""
        if self.seconds.shape[1] != n:
            raise UserError(
                f"path = {self.path} has {self.seconds.shape[1]} columns for {n} workers; give one a worker"
            )

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """See :class:`ComputeTime`."""
        del seed
        return self.seconds[t % len(self.seconds), workers.start : workers.stop].copy()


@dataclass(frozen=True)
class Slowed:
    """The times of ``base``, those of ``workers`` times ``factor``: it draws the same numbers."""

    base: ComputeTime
    workers: tuple[int, ...]
    factor: float

    def __post_init__(self) -> None:
        _not_negative(self, "factor")

    def check(self, n: int) -> None:
        """See :class:`ComputeTime`: the slow workers must be some of them."""
        self.base.check(n)
        for worker in self.workers:
            if not 0 <= worker < n:
                raise UserError(f"worker = {worker} is none of {n} workers; use 0 to {n - 1}")

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """See :class:`ComputeTime`."""
        slow = np.isin(np.arange(workers.start, workers.stop), self.workers)
        return self.base.draw(t, workers, seed) * np.where(slow, self.factor, 1.0)


COMPUTE_TIMES: dict[str, Callable[..., ComputeTime]] = {
    "constant": Constant,
    "shifted-exponential": ShiftedExponential,
    "lognormal": Lognormal,
    "one-slow-worker": OneSlowWorker,
    "stalls": Stalls,
    "trace": Trace,
}
"""Models by name; their fields are keys of a TOML table."""


def _drawn(
    draw: Callable[..., NDArray[np.float64]], t: int, workers: range, seed: int
) -> NDArray[np.float64]:
    """The numbers of ``workers`` in the stream of round t."""
    return draw(stream(seed, "compute-time", t), workers.stop)[workers.start :]


def _not_negative(model: Any, *keys: str) -> None:
    for key in keys:
        if not 0 <= getattr(model, key) < float("inf"):
            raise UserError(f"{key} = {getattr(model, key)} must be finite and not negative")


def _data(line: str) -> str:
    return line.split("#")[0].strip()
