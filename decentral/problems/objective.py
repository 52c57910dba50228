"""What the round loop asks of a problem, and the places where a problem is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from topologies.wording import shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from decentral.comm import Communicator
    from decentral.comm.layout import Layout
    from decentral.problems.adversarial import Adversarial


@dataclass(frozen=True)
class Place:
    """Where an objective is built: its hosted workers among all, seed, numbers, device, and batches.

    ``adversarial``: examples that samples are joined by, of problems that are Perturbable. ``chunk``: workers whose
    gradients are batched at once, of the oracle that batches.
    """

    workers: int
    rows: range
    seed: int
    dtype: torch.dtype
    device: torch.device
    batch_size: int | Literal["full"]
    weight_decay: float
    oracle: Literal["auto", "batched", "loop"]
    eval_samples: int
    adversarial: Adversarial | None = None
    chunk: int | Literal["auto"] = "auto"


def one_worker(place: Place, row: int) -> Place:
    """The place of hosted worker ``row`` alone."""
    worker = place.rows[row]
    return replace(place, rows=range(worker, worker + 1))


class Objective(Protocol):
    """f = (1/n) sum f_i for the hosted workers, and its gradient oracle.

    ``layout``: which of the ``d`` parameters of one model are which layer.
    ``losses`` (h,): the losses of the last gradient, each at the worker's own model.
    ``buffers``: further per-worker tensors (h, ...), such as batch norm's; they stay with their worker.
    ``optimum``: x* (1, d) of f plus weight decay, or None. ``oracle``: which gradient oracle was chosen.
    """

    layout: Layout
    d: int
    losses: Tensor
    buffers: dict[str, Tensor]
    optimum: Tensor | None
    oracle: str
    notes: list[str]

    def start(self) -> Tensor:
        """The common first model, (d,)."""

    def gradient(self, x: Tensor, t: int) -> Iterable[tuple[slice, Tensor]]:
        """The gradients at x (h, d) in round t, by blocks of columns: (columns, g of shape (h, width)).

        Weight decay is not in them; the round loop adds it before a method sees them.
        A block may be computed when it is asked for, from its own columns of x only.
        """

    def alone(self, row: int) -> Objective:
        """Hosted worker ``row`` by itself, h = 1: its gradients and losses on the same data, with its own buffers."""

    def redrawn(self, batch_size: int, of_all: bool) -> Objective:
        """The same workers, with the same buffers, and gradients over batches of so many samples.

        ``of_all``: of all training samples, each worker in an order of its own, instead of its own samples.
        """

    def renew_statistics(self, x: Tensor, batch_size: int) -> int:
        """Batch norm's statistics of the models x (h, d), whose rows are alike, by a pass over all training samples.

        In whole batches of so many samples, in one order for all workers. The number of batches; 0 where there is
        nothing to compute.
        """

    def record_cost_rounds(self) -> float:
        """How many rounds cost as much as one record: sets the default interval of records."""

    def evaluate(self, mean: Tensor, x: Tensor, comm: Communicator, last: bool) -> Mapping[str, float]:
        """Columns of metrics for the averaged model (1, d) and the hosted workers' models (h, d).

        ``last``: this is the last record of the run, which may cost more.
        """

    def samples(self, rounds: int) -> int | None:
        """How many samples all workers see in ``rounds`` rounds; None where there is no data set."""

    def epoch(self, rounds: int) -> float | None:
        """How many passes over the data ``rounds`` rounds are; None where there is no data set."""


OF_OPTIMUM = ("bias_sq", "mean_bias_sq")
"""Columns that are recorded where the optimum is known."""
OF_SAMPLES = (
    "epoch", "samples", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_accuracy_worker_mean",
    "test_accuracy_worker_min",
)  # fmt: skip
"""Columns of models that learn from samples with labels."""


def check_positive(**values: float) -> None:
    """Refuse what is not positive, naming the key."""
    for key, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{key} = {shown(value)} must be positive")


def check_spread(condition: float, **spreads: float) -> None:
    """Refuse a condition number below 1 and a standard deviation below 0."""
    if not 1 <= condition < float("inf"):
        raise ValueError(f"condition = {condition} must be at least 1")
    for key, value in spreads.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{key} = {shown(value)} must not be negative")
