"""A run of rounds as one typed, frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from decentral.algorithms.traits import Method, traits_of
from decentral.optimizers.rule import Rule
from decentral.optimizers.schedules import Schedule
from decentral.problems.capabilities import Linear
from decentral.runs.kind import Columns, Key, Named, Table
from decentral.runs.sections.compression import Compression
from decentral.runs.sections.faults import Faults
from decentral.runs.sections.names import ALL_METHODS, OPTIMIZERS, PROBLEMS, SCHEDULES
from decentral.runs.sections.network import Network
from decentral.runs.sections.noise_scale import NoiseScale
from decentral.runs.sections.topology import Topology
from decentral.runs.sections.train import Train
from decentral.runs.whole_models import WholeModels

RATIOS = (
    "compression_ratio",
    *(f"compression_ratio_{kind}" for kind in ("convolution", "dense", "recurrent", "other")),
)
"""The first of all compressors; the others of those that tell the kinds of layers, where the model has them."""


@dataclass(frozen=True)
class RoundsRun(WholeModels):
    """n workers in step: a round is a gradient of each, and a step of the method. What no other kind is meant by.

    ``optimizer``: None where the method is given the gradient itself.
    """

    there: ClassVar[str] = "no [stages]"
    goes_on: ClassVar[bool] = True

    problem: Annotated[Any, Named(PROBLEMS)]
    topology: Topology
    algorithm: Annotated[Method[Any], Named(ALL_METHODS)]
    allow_unstable: Annotated[bool, Key("algorithm", False)]
    compression: Compression | None
    network: Network
    faults: Faults | None
    train: Train
    schedule: Annotated[Schedule, Named(SCHEDULES, "constant")]
    optimizer: Annotated[Rule | None, Named(OPTIMIZERS, "sgd")]
    noise_scale: NoiseScale | None

    def columns(self, ranks: int) -> Columns | None:
        """See :class:`Run`; a spectral gap, or a theory of the steady state, may yet turn out not to be there."""
        del ranks
        if (measured := self.measured()) is None:
            return None
        found, final = [*measured, "simulated_s"], ["spectral_gap"]
        if self.compression is not None:
            found += RATIOS if self.compression.chosen.tells_layers else RATIOS[:1]
        if self.faults is not None:
            found += ["lost_messages", "late_messages", "mean_drift_sq"]
            found += ["mass"] if traits_of(self.algorithm).pushes else []
        if self.noise_scale is not None:
            found += ["gradient_noise_scale", "gradient_noise", "gradient_sq"]
            found += ["batch_size"] if self.noise_scale.most_batch else []
        if isinstance(self.problem, Linear):
            final.append("theory_bias_sq")
        return Columns(tuple(found), tuple(final))

    @classmethod
    def is_meant(cls, table: Table) -> bool:
        """See :class:`Run`."""
        del table
        return True
