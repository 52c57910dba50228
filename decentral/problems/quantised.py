"""A network of few bits that becomes one of integers (``decentral quantise``): the settings of the problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decentral.problems.classification import Classification
from decentral.problems.objective import check_positive
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.problems.data.dataset import Dataset
    from decentral.problems.models.layered import LayeredNetwork


@dataclass(frozen=True)
class QuantisedCNN(Classification):
    """A small convolutional network with batch norm whose weights and activations have few bits.

    ``width`` channels in its first layer; ``weight_bits`` of a weight, with its sign; ``activation_bits`` of what goes
    from layer to layer. A run leaves its averaged model, which ``decentral quantise`` turns into integers.
    """

    keeps_model: ClassVar[bool] = True

    width: int = 16
    weight_bits: int = 4
    activation_bits: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(width=self.width)
        for key, least in (("weight_bits", 2), ("activation_bits", 1)):
            if not least <= (bits := getattr(self, key)) <= 8:
                raise ValueError(f"{key} = {shown(bits)} should be {least} to 8")

    def network(self, dataset: Dataset) -> LayeredNetwork:
        """See :class:`Classification`."""
        from decentral.problems.models.quantised_cnn import quantised_cnn

        return quantised_cnn(
            dataset.shape, dataset.classes, self.width, self.weight_bits, self.activation_bits
        )
