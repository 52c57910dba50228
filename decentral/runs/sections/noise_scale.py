"""``[noise_scale]``: that the noise of gradients is measured, and whether batches grow with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decentral.errors import UserError
from decentral.problems.capabilities import Layered, Linear
from decentral.tables import from_table
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.runs.sections.faults import Faults
    from decentral.runs.sections.train import Train


@dataclass(frozen=True)
class NoiseScale:
    """``[noise_scale]`` in TOML: the simple noise scale of the workers' gradients (arXiv:1812.06162).

    ``every``: rounds from one measurement to the next; one takes a pass or two over the gradients. ``decay``: of the
    exponential averages of S and |G|^2, a measurement. The noise scale is their ratio.
    ``most_batch``: a worker's batch grows, up to so many samples, where n of them are fewer than the geometric mean of
    the noise scale and the first round's samples; that is looked at every ``grow_every`` rounds. It never shrinks, and
    the learning rate is the schedule's.
    """

    every: int = 1
    decay: float = 0.99
    most_batch: int | None = None
    grow_every: int | None = None

    def __post_init__(self) -> None:
        for key in ("every", "most_batch", "grow_every"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"noise_scale.{key} = {shown(value)} must be at least 1")
        if not 0 <= self.decay < 1:
            raise UserError(
                f"noise_scale.decay = {shown(self.decay)} must be at least 0 and below 1; 0.99 averages some hundred "
                "measurements"
            )
        if (self.most_batch is None) != (self.grow_every is None):
            raise UserError(
                "noise_scale.most_batch and noise_scale.grow_every go together: how large a worker's batch may grow, "
                "and after how many rounds that is looked at; set both or neither"
            )

    @classmethod
    def from_table(
        cls, table: Mapping[str, Any], workers: int, train: Train, problem: Any, faults: Faults | None
    ) -> NoiseScale:
        """Checked against what it measures."""
        settings = from_table(cls, table, "noise_scale")
        if workers == 1:
            raise UserError(
                "[noise_scale] compares the gradients of workers, and there is one; use 2 or more, or remove it"
            )
        exact = problem.exact(train.batch_size) if isinstance(problem, Linear) else train.batch_size == "full"
        if exact:
            raise UserError(
                f"[noise_scale] measures the noise of sampled gradients, and with train.batch_size = "
                f"{shown(train.batch_size)} these have none; set a smaller batch, or noise, or remove the section"
            )
        if faults is not None and faults.absent_workers:
            raise UserError(
                f"[noise_scale] needs the gradients of all workers, and faults.absent_workers = "
                f"{shown(list(faults.absent_workers))} have none while away; remove one of the two"
            )
        if settings.most_batch is not None:
            _check_growth(settings.most_batch, train, problem)
        return settings


def _check_growth(most: int, train: Train, problem: Any) -> None:
    if not isinstance(problem, Layered):
        raise UserError(
            "noise_scale.most_batch is for problems whose models learn from a data set; remove it and grow_every"
        )
    if isinstance(train.batch_size, int) and most < train.batch_size:
        raise UserError(
            f"noise_scale.most_batch = {shown(most)} is below train.batch_size = {train.batch_size}, where batches "
            "begin; set it higher"
        )
