"""What an Assistant is: it looks at samples before the Boss does, and lets through those that seem worth a gradient.

Reference: Zhang, Yu and Dhillon 2019, arXiv:1905.03381 (AutoAssist).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from topologies.settings import finite_settings, plain_settings
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.problems.capabilities import Problem


_LEAST = 0.01
"""Of ``base``: then a batch is full after a hundred times its samples, about, at the latest."""


class Batch(NamedTuple):
    """What the Boss knows of the batch that it has just learned from.

    ``losses`` (B,) and ``right`` (B,), whether the label was predicted, before the step; ``mean``: the running mean of
    the loss, this batch included; ``x`` (1, d): the model after the step.
    """

    losses: Tensor
    right: Tensor
    mean: float
    x: Tensor


class Chooser(Protocol):
    """An Assistant at work on samples x (N, features) with labels y (N,).

    ``scan_flops``, ``learn_flops``: of one sample.
    """

    scan_flops: float
    learn_flops: float

    def keep(self, rows: Tensor, k: Tensor) -> Tensor:
        """The keep probability (m,) of the samples ``rows`` (m,); ``k`` (m,): how many were scanned before each."""

    def learn(self, rows: Tensor, told: Tensor) -> None:
        """From a batch that the Boss has learned from, and what :meth:`Assistant.tell` says of it."""


@dataclass(frozen=True)
class Assistant(ABC):
    """Settings of an Assistant; ``[assistant]`` in TOML.

    A sample is kept with the probability p, at least ``base``: one coin each, and what passes below ``base`` is not
    judged. Kept samples make full batches of ``train.batch_size`` for the Boss, whose step is that of their mean loss
    without weights: with base < 1 its gradient is biased on purpose.

    ``queue``: batches that may wait for the Boss, and reports for the Assistant; neither ever waits for room: the
    Assistant stops scanning, and the oldest report is dropped. ``enough``: batches that wait while the Assistant
    learns from a report; with fewer it scans. ``synchronous``: it scans the next batch when it has learned from the
    Boss's last one, whatever these two are.
    ``pace``: what the schedule's t counts, the Boss's "steps", or batches' worth of samples "scanned".
    """

    base: float = 0.3
    queue: int = 20
    enough: int = 5
    synchronous: bool = False
    pace: Literal["steps", "scanned"] = "steps"

    def __post_init__(self) -> None:
        plain_settings(self)
        if not _LEAST <= self.base <= 1:
            raise ValueError(
                f"base = {shown(self.base)} must be a probability in [{_LEAST}, 1], so that batches fill whatever the "
                "Assistant thinks; 0.3 is usual"
            )
        if not 1 <= self.queue <= 10_000:
            raise ValueError(
                f"queue = {shown(self.queue)} must be at least 1 and at most 10,000; 20 is usual"
            )
        if not self.synchronous and not 0 <= self.enough < self.queue:
            raise ValueError(
                f"enough = {shown(self.enough)} must be at least 0 and less than queue = {self.queue}; 5 of 20 is usual"
            )
        finite_settings(self)

    def check(self, problem: Problem) -> None:
        """Raise ValueError for a problem that it cannot assist with."""
        del problem

    @abstractmethod
    def chooser(self, x: Tensor, y: Tensor, classes: int, seed: int) -> Chooser:
        """It, before it has learned anything, beside all training samples."""

    @abstractmethod
    def tell(self, batch: Batch) -> Tensor:
        """What it is told of a batch."""
