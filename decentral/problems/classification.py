"""Classification of a data set that is dealt out to the workers: the settings of its problems, by model."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from decentral.problems.capabilities import BatchSize, Draw, Made
from decentral.problems.data import DATASETS, load
from decentral.problems.data.partitions import partition
from decentral.problems.objective import OF_OPTIMUM, Place, check_positive
from decentral.problems.of_module import OfModule
from decentral.problems.sizes import check_layers
from decentral.tables import OneOf
from topologies.streams import stream

if TYPE_CHECKING:
    from torch import Tensor, nn

    from decentral.problems.data.dataset import Dataset, Scale
    from decentral.problems.model_objective import ModelObjective

Data = Annotated[str, OneOf(DATASETS)]


@dataclass(frozen=True)
class Classification(OfModule):
    """Mean cross-entropy of worker i's samples.

    ``data``: see ``decentral list data``; sets that are not embedded are read below ``data_root`` (or the environment
    variable DECENTRAL_DATA). ``partition``: "iid"; "dirichlet", each class dealt by
    Dirichlet(``alpha``); "shards", sorted by label, ``shards_per_worker`` pieces to each worker.
    """

    data: Data = "digits"
    data_root: str = ""
    partition: Literal["iid", "dirichlet", "shards"] = "iid"
    alpha: float = 0.1
    shards_per_worker: int = 2

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha, shards_per_worker=self.shards_per_worker)

    def read(self) -> Dataset:
        """The data set."""
        return load(self.data, self.data_root or None)

    def made(self, workers: int, seed: int) -> Made:
        """See :class:`decentral.problems.capabilities.Layered`."""
        dataset = self.read()
        shards = partition(
            dataset.train_y.numpy(),
            workers,
            self.partition,
            stream(seed, "partition"),
            alpha=self.alpha,
            shards_per_worker=self.shards_per_worker,
        )
        return Made(self.model(dataset, seed), dataset, shards)

    def batches(self, made: Made, seed: int, batch_size: BatchSize) -> Draw:
        """See :class:`decentral.problems.capabilities.Layered`."""
        from decentral.problems.step_batches import of_shards

        return of_shards(made, seed, batch_size)

    def most_workers(self) -> int:
        """See :class:`decentral.problems.capabilities.Dealt`."""
        return len(self.read().train_y)

    def scale(self) -> Scale | None:
        """See :class:`decentral.problems.capabilities.Perturbable`."""
        return self.read().scale


@dataclass(frozen=True)
class LogisticRegression(Classification):
    """Multinomial logistic regression: one linear layer with bias.

    ``optimum = true`` solves for the optimum of the objective (weight decay included, which must be positive, so
    that there is one) before training, so that the bias of every method is measured on real data.
    """

    optimum: bool = False

    def check(self, batch_size: BatchSize, weight_decay: float) -> None:
        """A unique optimum needs weight decay."""
        super().check(batch_size, weight_decay)
        if self.optimum and weight_decay == 0:
            raise ValueError(
                "problem.optimum = true needs train.weight_decay > 0, else the optimum is not unique; set it, e.g. 1e-3"
            )
        if self.optimum and weight_decay < _LEAST_DECAY:
            raise ValueError(
                f"train.weight_decay = {weight_decay} is too small for problem.optimum = true, which needs "
                f"{_LEAST_DECAY} at the least to be found in double precision; set it higher, 1e-3 for example"
            )

    def solve(self, workers: int, seed: int, weight_decay: float) -> None:
        """See :class:`decentral.problems.capabilities.Solved`."""
        if self.optimum:
            _optimum(self, workers, seed, weight_decay)

    def columns(self, workers: int, weight_decay: float) -> tuple[str, ...]:
        """With the distances to the optimum, if it is asked for."""
        return super().columns(workers, weight_decay) + (OF_OPTIMUM if self.optimum else ())

    def network(self, dataset: Dataset) -> nn.Module:
        """See :class:`Classification`."""
        from decentral.problems.models.dense import logistic

        return logistic(dataset.shape, dataset.classes)

    def build(self, place: Place) -> ModelObjective:
        """With its optimum, if it is asked for."""
        objective = super().build(place)
        if self.optimum:
            optimum = _optimum(self, place.workers, place.seed, place.weight_decay)
            objective.optimum = optimum.to(place.device)
        return objective


_LEAST_DECAY = 1e-10


@functools.lru_cache(maxsize=64)
def _optimum(settings: LogisticRegression, workers: int, seed: int, weight_decay: float) -> Tensor:
    """x* (1, d): the methods of a sweep share it."""
    from decentral.problems.optimum import logistic_optimum

    made = settings.made(workers, seed)
    return logistic_optimum(made.dataset, made.shards, weight_decay)


@dataclass(frozen=True)
class MLP(Classification):
    """A multi-layer perceptron with ReLU; ``hidden`` are the widths."""

    hidden: tuple[int, ...] = (256,)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.hidden:
            check_layers(layers=len(self.hidden))
        for width in self.hidden:
            check_positive(hidden=width)

    def network(self, dataset: Dataset) -> nn.Module:
        """See :class:`Classification`."""
        from decentral.problems.models.dense import mlp

        return mlp(dataset.shape, dataset.classes, self.hidden)


@dataclass(frozen=True)
class CNN(Classification):
    """A small convolutional network with batch norm; ``width`` channels in its first layer."""

    width: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(width=self.width)

    def network(self, dataset: Dataset) -> nn.Module:
        """See :class:`Classification`."""
        from decentral.problems.models.convolutional import cnn

        return cnn(dataset.shape, dataset.classes, width=self.width)


@dataclass(frozen=True)
class ResNet20(Classification):
    """ResNet-20 for 32 x 32 images (He et al. 2016, section 4.2; 0.27 million parameters)."""

    data: Data = "cifar10"

    def network(self, dataset: Dataset) -> nn.Module:
        """See :class:`Classification`."""
        from decentral.problems.models.convolutional import resnet20

        return resnet20(dataset.shape, dataset.classes)


@dataclass(frozen=True)
class ResNet(Classification):
    """ResNet of ``depth`` 6 n + 2 for small images, as 3 n + 1 layers and a head (He et al. 2016)."""

    data: Data = "cifar10"
    depth: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(depth=self.depth)

    def network(self, dataset: Dataset) -> nn.Module:
        """See :class:`Classification`."""
        from decentral.problems.models.vision import resnet

        return resnet(dataset.shape, dataset.classes, self.depth)


@dataclass(frozen=True)
class VGG(Classification):
    """VGG-8b, seven layers and a head; ``width`` channels in the first, ``hidden`` units in the last."""

    data: Data = "cifar10"
    width: int = 32
    hidden: int = 256

    def network(self, dataset: Dataset) -> nn.Module:
        """See :class:`Classification`."""
        from decentral.problems.models.vision import vgg

        return vgg(dataset.shape, dataset.classes, self.width, self.hidden)


@dataclass(frozen=True)
class Module(Classification):
    """Your own ``torch.nn.Module``: ``factory = "module:function"``, called with (shape, classes)."""

    factory: str = ""

    def check(self, batch_size: BatchSize, weight_decay: float) -> None:
        """A factory is needed."""
        super().check(batch_size, weight_decay)
        if not self.factory:
            raise ValueError(
                'problem.factory is missing; give "module:function", called with (shape, classes)'
            )

    def prepare(self, workers: int, seed: int) -> object:
        """Read the data and build the model, which is not ours to be built twice, or without its memory.

        With the file that the factory is written in.
        """
        from decentral.problems.models.factory import source_of

        return {"": self.made(workers, seed), "the factory's file": source_of(self.factory)}

    def network(self, dataset: Dataset) -> nn.Module:
        """See :class:`Classification`."""
        from decentral.problems.models.factory import from_factory

        return from_factory(self.factory, dataset)
