"""``[trust_ratios]``: that the trust ratios of layers are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS
from decentral.tables import from_table
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.optimizers.rule import Rule
    from decentral.runs.sections.faults import Faults
    from decentral.runs.sections.train import Train

MOST = 100_000
"""Measurements of a run: they are kept in memory, and in checkpoints, until it ends."""


@dataclass(frozen=True)
class TrustRatios:
    """``[trust_ratios]`` in TOML: what the rule multiplies lr by, layer by layer, goes into trust_ratios.csv.

    ``every``: rounds from one measurement to the next; one takes up to about one and a half times as
    long as the rule's own step.
    """

    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"trust_ratios.every = {shown(self.every)} must be at least 1")

    @classmethod
    def from_table(
        cls, table: Mapping[str, Any], optimizer: Rule | None, train: Train, faults: Faults | None
    ) -> TrustRatios:
        """Checked against whose ratios they are."""
        settings = from_table(cls, table, "trust_ratios")
        if optimizer is None or not optimizer.trusts:
            whose = "there is no [optimizer]" if optimizer is None else f"{optimizer.title} has none"
            having = ", ".join(name for name, rule in OPTIMIZERS.items() if rule.trusts)
            raise UserError(
                f"[trust_ratios] records the trust ratio of each layer, and {whose}; choose optimizer.name of "
                f"{having}, or remove the section"
            )
        if faults is not None and faults.absent_workers:
            raise UserError(
                f"[trust_ratios] records the steps of all workers, and faults.absent_workers = "
                f"{shown(list(faults.absent_workers))} make none while away; remove one of the two"
            )
        if train.rounds // settings.every > MOST:
            raise UserError(
                f"trust_ratios.every = {settings.every} in train.rounds = {train.rounds} measures more than {MOST:,} "
                f"times; set it to {-(-train.rounds // MOST)} or more"
            )
        return settings
