"""What a problem's settings can do, as protocols: who needs a capability asks for it by ``isinstance``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from decentral.problems.data.dataset import Dataset, Scale
    from decentral.problems.models.tried import Tried
    from decentral.problems.objective import Objective, Place

BatchSize = int | Literal["full"]
"""Samples of a worker that enter a gradient; "full": all that it has."""


@runtime_checkable
class Problem(Protocol):
    """Settings of any problem: a frozen dataclass, whose fields are the keys of ``[problem]``."""

    def prepare(self, workers: int, seed: int) -> object:
        """Read the data and build the model once, so that every mistake is found before any run starts.

        Gives what it has made, or None: what ranks must have alike.
        """


@runtime_checkable
class Trainable(Problem, Protocol):
    """Settings of an objective of n workers: what rounds train."""

    def check(self, batch_size: BatchSize, weight_decay: float) -> None:
        """Refuse what can be told before the data are read. Raises ValueError."""

    def build(self, place: Place) -> Objective:
        """The objective of the hosted workers."""


@runtime_checkable
class Dealt(Problem, Protocol):
    """Settings of a problem whose samples are dealt out to the workers."""

    def most_workers(self) -> int:
        """How many training samples there are: so many workers can own one."""


@runtime_checkable
class Counted(Problem, Protocol):
    """Settings of a problem that has epochs, and can say of how many samples before it is built."""

    def epoch_samples(self, workers: int) -> int:
        """Training samples that all workers together have: those of an epoch."""


@runtime_checkable
class Repeating(Counted, Protocol):
    """Settings of a problem of which a batch is that of several rounds."""

    @property
    def rounds_a_batch(self) -> int:
        """Rounds from one batch to the next."""


def rounds_a_batch(problem: object) -> int:
    """Rounds from one batch to the next of any problem's settings."""
    return problem.rounds_a_batch if isinstance(problem, Repeating) else 1


@runtime_checkable
class Solved(Problem, Protocol):
    """Settings of a problem whose optimum takes some seconds, and may not be found."""

    def solve(self, workers: int, seed: int, weight_decay: float) -> None:
        """Find the optimum, if it is asked for; it is remembered. Raises UserError."""


@runtime_checkable
class Sized(Problem, Protocol):
    """Settings of a problem that can say what it takes before it is built."""

    def parameters(self) -> int:
        """d, of one model, without building it."""

    def least_bytes(self, workers: int, itemsize: int) -> float:
        """Memory that the data of so many hosted workers take at the least, in numbers of ``itemsize`` bytes."""


@runtime_checkable
class Measured(Problem, Protocol):
    """Settings of a problem that can say what will be recorded of it."""

    def columns(self, workers: int, weight_decay: float) -> tuple[str, ...]:
        """Columns of metrics.csv that its runs have and those of other problems may not; the objective fills them."""


@runtime_checkable
class Leaving(Protocol):
    """An objective that leaves files in the run's folder."""

    def files(self) -> Mapping[str, str]:
        """Name -> text, of what the last record found; of rank 0."""


@runtime_checkable
class Linear(Trainable, Protocol):
    """Settings of a problem whose gradient is H_i x - r_i: its steady states are linear algebra."""

    @property
    def dimension(self) -> int:
        """d."""

    def linear_terms(self, workers: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(H, r): H (n, d, d) and r (n, d) in float64, of all workers, without weight decay."""

    def largest_curvature(self, workers: int, seed: int) -> float:
        """The largest eigenvalue of any H_i."""

    def exact(self, batch_size: BatchSize) -> bool:
        """Whether gradients are full and without noise."""


@runtime_checkable
class Acted(Trainable, Protocol):
    """Settings of a problem whose samples may be made by ranks of their own, so many beside each rank of workers."""

    @property
    def actor_ranks(self) -> int:
        """0 where each process makes its own."""


class Made(NamedTuple):
    """A model as it was initialised, the samples, and which of the training samples each of the n workers owns."""

    module: nn.Module
    dataset: Dataset
    shards: list[NDArray[np.int64]]


Draw = Callable[[int, int, "Tensor", "Tensor"], "tuple[Tensor, Tensor]"]
"""(worker, step, all training inputs, all labels) -> the inputs and labels of its batch."""


@runtime_checkable
class Layered(Trainable, Protocol):
    """Settings of a problem whose model is a torch module: what can be cut into stages."""

    def made(self, workers: int, seed: int) -> Made:
        """The model, its samples, and how they are dealt."""

    def batches(self, made: Made, seed: int, batch_size: BatchSize) -> Draw:
        """What stages draw, a function of the worker and the step."""


@runtime_checkable
class Perturbable(Layered, Protocol):
    """Settings of a problem whose inputs are numbers, which may be moved a little; tokens may not."""

    def scale(self) -> Scale | None:
        """What pixels are as inputs; None where inputs are no pixels."""


@runtime_checkable
class Tryable(Layered, Protocol):
    """Settings of a problem whose model may be anybody's."""

    def tried(self, made: Made, place: Place) -> Tried:
        """What a trial of the model finds, the same in all runs that train it alike. Raises UserError."""


def is_ours(problem: object) -> bool:
    """Whether a problem's model is one of this package's, which need no trial."""
    return type(problem).__module__.startswith("decentral.") and not hasattr(problem, "factory")
