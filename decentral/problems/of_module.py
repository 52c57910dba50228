"""What problems of a torch module and dealt samples have in common, whatever the samples are."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from decentral.problems.capabilities import BatchSize, Draw, Made
from decentral.problems.objective import OF_SAMPLES, Place
from decentral.problems.sizes import refuse_models

if TYPE_CHECKING:
    from torch import nn

    from decentral.problems.losses import Loss
    from decentral.problems.model_objective import ModelObjective
    from decentral.problems.models.tried import Tried


@dataclass(frozen=True)
class OfModule:
    """Settings of such a problem, without keys of its own: see :mod:`decentral.problems.capabilities`.

    ``keeps_model``: whether its runs leave the averaged model.
    """

    keeps_model: ClassVar[bool] = False

    @abstractmethod
    def read(self) -> Any:
        """What the samples are made of: a data set, or a text."""

    @abstractmethod
    def network(self, data: Any) -> nn.Module:
        """The model for what :meth:`read` gives, its parameters drawn from torch's generator."""

    @abstractmethod
    def made(self, workers: int, seed: int) -> Made:
        """See :class:`decentral.problems.capabilities.Layered`."""

    @abstractmethod
    def batches(self, made: Made, seed: int, batch_size: BatchSize) -> Draw:
        """See :class:`decentral.problems.capabilities.Layered`."""

    @abstractmethod
    def most_workers(self) -> int:
        """See :class:`decentral.problems.capabilities.Dealt`."""

    def epoch_samples(self, workers: int) -> int:
        """See :class:`decentral.problems.capabilities.Counted`; all samples are dealt out."""
        del workers
        return self.most_workers()

    def loss(self) -> Loss:
        """What is averaged over the samples: cross-entropy, unless a problem says otherwise."""
        from decentral.problems.losses import cross_entropy

        return cross_entropy

    def check(self, batch_size: BatchSize, weight_decay: float) -> None:
        """What can be told before the data are read: nothing more."""
        del batch_size, weight_decay

    def prepare(self, workers: int, seed: int) -> object:
        """Read the data and build the model once, so that every mistake is found before any run starts."""
        refuse_models(self, 1, 4)
        return self.made(workers, seed)

    def model(self, data: Any, seed: int) -> nn.Module:
        """A fresh model, initialised from the seed."""
        from decentral.problems.models.initialise import initialise

        return initialise(lambda: self.network(data), seed)

    def columns(self, workers: int, weight_decay: float) -> tuple[str, ...]:
        """See :class:`decentral.problems.capabilities.Measured`."""
        del workers, weight_decay
        return OF_SAMPLES

    def parameters(self) -> int:
        """See :class:`decentral.problems.capabilities.Sized`."""
        from decentral.problems.models.initialise import parameter_count

        data = self.read()
        return parameter_count(lambda: self.network(data))

    def least_bytes(self, workers: int, itemsize: int) -> float:
        """The data are there once, and are read before: nothing more."""
        del workers, itemsize
        return 0.0

    def build(self, place: Place) -> ModelObjective:
        """The objective of the hosted workers."""
        from decentral.problems.model_objective import ModelObjective

        made = self.made(place.workers, place.seed)
        tried, loss = self.tried(made, place), self.loss()
        if place.adversarial is None:
            return ModelObjective(*made, place, tried, loss)
        from decentral.problems.adversarial_objective import AdversarialObjective

        return AdversarialObjective(*made, place, tried, loss)

    def tried(self, made: Made, place: Place) -> Tried:
        """See :class:`decentral.problems.capabilities.Tryable`."""
        from decentral.problems.rehearsal import rehearsed

        return rehearsed(self, made, place)
