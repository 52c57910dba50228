"""A run of rounds as one typed, frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from decentral.algorithms.traits import Method, traits_of
from decentral.errors import UserError
from decentral.optimizers.autowu import AutoWU
from decentral.optimizers.of_run import OfRun
from decentral.optimizers.rule import Rule
from decentral.optimizers.schedules import Schedule
from decentral.problems.adversarial import Adversarial
from decentral.problems.capabilities import BatchSize, Layered, Linear, rounds_a_batch
from decentral.runs.kind import Columns, Key, Named, Table
from decentral.runs.sections.actors import refuse_actors
from decentral.runs.sections.adversarial import refuse_adversarial
from decentral.runs.sections.compression import Compression
from decentral.runs.sections.faults import Faults
from decentral.runs.sections.names import ALL_METHODS, OPTIMIZERS, PROBLEMS, SCHEDULES
from decentral.runs.sections.network import Network
from decentral.runs.sections.noise_scale import NoiseScale
from decentral.runs.sections.phases import REPLICAS, Phases
from decentral.runs.sections.topology import Topology
from decentral.runs.sections.train import Train
from decentral.runs.sections.trust_ratios import TrustRatios
from decentral.runs.whole_models import WholeModels

RATIOS = (
    "compression_ratio",
    *(f"compression_ratio_{kind}" for kind in ("convolution", "dense", "recurrent", "other")),
)
"""The first of all compressors; the others of those that tell the kinds of layers, where the model has them."""

BY_PHASE = ("bytes_phase_1", "bytes_phase_2", "bytes_phase_3")
REPLICAS_ACCURACY = "test_accuracy_replicas"


@dataclass(frozen=True)
class RoundsRun(WholeModels):
    """n workers in step: a round is a gradient of each, and a step of the method. What no other kind is meant by.

    ``optimizer``: None where the method is given the gradient itself. ``adversarial``: None where samples are alone.
    """

    there: ClassVar[str] = "no [stages]"
    goes_on: ClassVar[bool] = True
    hears: ClassVar[bool] = True

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
    phases: Phases | None
    adversarial: Adversarial | None
    noise_scale: NoiseScale | None
    trust_ratios: TrustRatios | None

    @property
    def all_rounds(self) -> int:
        """See :class:`Run`; fewer where the first phase ends early."""
        return self.train.rounds + (self.phases.rounds if self.phases else 0)

    @property
    def batch_sizes(self) -> Mapping[str, BatchSize]:
        """See :class:`Run`."""
        of_phases = {f"{REPLICAS}.batch_size": self.phases.replicas.batch_size} if self.phases else {}
        return {**super().batch_sizes, **of_phases}

    def columns(self, ranks: int) -> Columns | None:
        """See :class:`Run`; a spectral gap, or a theory of the steady state, may yet turn out not to be there."""
        del ranks
        if (measured := self.measured()) is None:
            return None
        found, final = [*measured, "simulated_s"], ["spectral_gap"]
        found += ["lr"] if isinstance(self.schedule, AutoWU) else []
        if self.compression is not None:
            found += RATIOS if self.compression.chosen.tells_layers else RATIOS[:1]
        if self.faults is not None:
            found += ["lost_messages", "late_messages", "mean_drift_sq"]
            found += ["mass"] if traits_of(self.algorithm).pushes else []
        if self.noise_scale is not None:
            found += ["gradient_noise_scale", "gradient_noise", "gradient_sq"]
            found += ["batch_size"] if self.noise_scale.most_batch else []
        if self.adversarial is not None:
            found.append("adversarial_accuracy")
        if self.phases is not None:
            found.append("phase")
            final += BY_PHASE
            final += [REPLICAS_ACCURACY] if "test_accuracy_worker_mean" in measured else []
        if isinstance(self.problem, Linear) and self.phases is None:
            final.append("theory_bias_sq")
        return Columns(tuple(found), tuple(final))

    def fits(self) -> None:
        """See :class:`Run`."""
        super().fits()
        if self.adversarial is not None:
            refuse_adversarial(self.adversarial, self.problem, self.train, self.faults)
        if self.train.chunk != "auto" and not isinstance(self.problem, Layered):
            raise UserError(
                f"train.chunk = {self.train.chunk} is of gradients of networks, which are batched over workers, and "
                "[problem] has none; remove the key"
            )
        refuse_actors(self.problem, self.train, self.faults, self.phases, self.optimizer)
        grows = self.noise_scale is not None and self.noise_scale.most_batch is not None
        evaluates = self.optimizer is not None and self.optimizer.evaluates
        rescales = self.optimizer is not None and self.optimizer.rescale is not None
        for one, other, why in (
            (
                rescales,
                self.adversarial,
                "[optimizer] rescales one of the two sets of statistics of [adversarial]",
            ),
            (evaluates, self.phases, "[optimizer] evaluates the loss on batches that [phases] changes"),
            (
                evaluates,
                self.adversarial,
                "[optimizer] evaluates the loss without the examples of [adversarial]",
            ),
            (
                evaluates,
                grows,
                "[optimizer] evaluates the loss on batches that noise_scale.most_batch changes",
            ),
            (
                self.noise_scale,
                rounds_a_batch(self.problem) > 1,
                "[noise_scale] measures gradients of samples, and problem.refeed = true has some of outputs",
            ),
            (self.phases, self.adversarial, "[phases] draws batches that [adversarial] has no examples of"),
            (self.phases, self.noise_scale, "[phases] changes the batches that [noise_scale] measures"),
            (grows, self.adversarial, "noise_scale.most_batch changes the batches that [adversarial] moves"),
            (self.phases, self.trust_ratios, "[phases] changes the rule that [trust_ratios] measures"),
            (
                grows,
                isinstance(self.schedule, OfRun),
                "noise_scale.most_batch changes what [schedule] goes by",
            ),
        ):
            if one and other:
                raise UserError(f"{why}; remove one of the two")

    @classmethod
    def is_meant(cls, table: Table) -> bool:
        """See :class:`Run`."""
        del table
        return True
