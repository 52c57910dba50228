"""A linear support vector machine: the settings of the problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decentral.problems.classification import Classification, Data

if TYPE_CHECKING:
    from torch import nn

    from decentral.problems.data.dataset import Dataset
    from decentral.problems.losses import Loss


@dataclass(frozen=True)
class LinearSVM(Classification):
    """A linear support vector machine, from zero: train.weight_decay / 2 |w|^2 + mean hinge loss, without biases.

    For two classes f = w.x, and d is the number of features; for more a row of weights each, and the hinge loss of
    Crammer and Singer (2001).
    """

    data: Data = "a9a"

    def network(self, dataset: Dataset) -> nn.Module:
        """See :class:`Classification`."""
        from decentral.problems.models.dense import separating

        return separating(dataset.shape, dataset.classes)

    def loss(self) -> Loss:
        """See :class:`decentral.problems.of_module.OfModule`."""
        from decentral.problems.losses import hinge

        return hinge
