"""``[faults]``: what goes wrong in a run, and which methods have no answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import topologies
from decentral.errors import UserError
from decentral.network.compute import ComputeTime, Slowed
from decentral.tables import fields_of, from_table
from topologies.wording import shown

MOST_LATE = 10_000
"""Rounds: for each of them vectors are kept, and a round looks for messages in all of them."""

if TYPE_CHECKING:
    from decentral.comm.faults.fates import Fates


@dataclass(frozen=True)
class Faults:
    """``[faults]`` in TOML.

    ``loss``: probability that a message is lost. ``late``: that one which is not comes late, by 1 to ``late_rounds``
    rounds. ``symmetric``: both directions of an edge share their fate. ``absent_workers`` leave before round
    ``leave_round``, and are back before ``return_round``, or never; models and states stand still meanwhile.
    ``slow_workers`` compute ``slow_factor`` times as long, which their clocks show and nothing else.
    """

    loss: float = 0.0
    symmetric: bool = False
    late: float = 0.0
    late_rounds: int = 1
    absent_workers: tuple[int, ...] = ()
    leave_round: int | None = None
    return_round: int | None = None
    slow_workers: tuple[int, ...] = ()
    slow_factor: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.loss < 1:
            raise UserError(
                f"faults.loss = {self.loss} must be at least 0 and below 1; 0.05 loses one in twenty"
            )
        if not 0 <= self.late <= 1:
            raise UserError(f"faults.late = {self.late} must be in [0, 1]; 0.1 delays one message in ten")
        if not 1 <= self.late_rounds <= MOST_LATE:
            raise UserError(
                f"faults.late_rounds = {shown(self.late_rounds)} must be from 1 to {MOST_LATE:,}; set late = 0.0 for "
                "none"
            )
        for name, needed, other in (
            ("absent_workers", "leave_round", "return_round"),
            ("slow_workers", "slow_factor", "slow_factor"),
        ):
            workers = getattr(self, name)
            object.__setattr__(self, name, tuple(workers))
            if len(set(workers)) < len(workers):
                raise UserError(
                    f"faults.{name} = {shown(list(workers))} names a worker twice; name each once"
                )
            if workers and getattr(self, needed) is None:
                raise UserError(
                    f"faults.{name} = {shown(list(workers))} without faults.{needed}; add that key"
                )
            for key in (needed, other):
                if not workers and getattr(self, key) is not None:
                    raise UserError(
                        f"faults.{key} = {shown(getattr(self, key))} is for faults.{name}, and it names none"
                    )
        if self.leave_round is not None and self.leave_round < 0:
            raise UserError(f"faults.leave_round = {self.leave_round} must be at least 0, the first round")
        if (
            self.leave_round is not None
            and self.return_round is not None
            and self.return_round <= self.leave_round
        ):
            raise UserError(
                f"faults.return_round = {self.return_round} must be after faults.leave_round = {self.leave_round}; "
                "without the key absent workers stay away"
            )
        if self.slow_factor is not None and not 1 <= self.slow_factor < float("inf"):
            raise UserError(f"faults.slow_factor = {self.slow_factor} must be at least 1 and finite")

    @classmethod
    def from_table(cls, table: Mapping[str, Any], workers: int, rounds: int) -> Faults | None:
        """Checked against the run's workers and rounds; None for no table."""
        if not table:
            return None
        faults = from_table(cls, table, "faults")
        for name in ("absent_workers", "slow_workers"):
            for worker in getattr(faults, name):
                if not 0 <= worker < workers:
                    raise UserError(
                        f"faults.{name}: {worker} is none of {workers} workers; use 0 to {workers - 1}"
                    )
        if len(faults.absent_workers) == workers:
            raise UserError(f"faults.absent_workers names all {workers} workers; leave one to go on")
        if faults.leave_round is not None and faults.leave_round >= rounds:
            raise UserError(
                f"faults.leave_round = {faults.leave_round} is after the last of {rounds} rounds; leave earlier"
            )
        return faults

    @property
    def of_links(self) -> bool:
        """Whether messages are touched; a slow worker alone leaves them as they are."""
        return bool(self.loss or self.late or self.absent_workers)

    def resolved(self) -> dict[str, Any]:
        """The table with its defaults written out."""
        return fields_of(self)

    def fates(self, schedule: topologies.Schedule, seed: int) -> Fates:
        """What becomes of the messages of each round."""
        from decentral.comm.faults.fates import Fates  # here: its package imports torch

        return Fates(
            schedule, seed, self.loss, self.late, self.late_rounds, self.symmetric,
            self.absent_workers, self.leave_round or 0, self.return_round,
        )  # fmt: skip

    def slowed(self, compute: ComputeTime) -> ComputeTime:
        """The compute times with those of the slow workers."""
        return Slowed(compute, self.slow_workers, self.slow_factor) if self.slow_factor else compute
