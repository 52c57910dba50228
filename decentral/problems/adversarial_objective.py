"""A model that learns from samples and from adversarial examples of them, and is judged on both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from decentral.errors import UserError
from decentral.problems.adversarial_oracle import AdversarialOracle, Attacker
from decentral.problems.attack import Attack
from decentral.problems.evaluation import average, chunks
from decentral.problems.losses import Loss, cross_entropy
from decentral.problems.model_objective import ModelObjective
from decentral.problems.models.tried import TRUSTED, Tried
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.comm import Communicator
    from decentral.problems.data.dataset import Dataset
    from decentral.problems.objective import Place


class AdversarialObjective(ModelObjective):
    """See :class:`decentral.problems.adversarial.Adversarial`, which ``place`` has; always by the loop.

    Raises UserError where attackers would need buffers that they have not.
    """

    def __init__(
        self, module: nn.Module, dataset: Dataset, shards: list[NDArray[np.int64]], place: Place,
        tried: Tried = TRUSTED, loss: Loss = cross_entropy,
    ) -> None:  # fmt: skip
        super().__init__(module, dataset, shards, replace(place, oracle="loop"), tried, loss)
        assert place.adversarial is not None
        self.settings, self.main = place.adversarial, self.buffers
        if self.settings.attackers:
            _refuse_states(self.evaluation.module)
        self.attack = Attack(
            self.evaluation.module, self.layout, self.settings, dataset.scale, self._start, loss
        )
        self._furnish()

    def _furnish(self) -> None:
        """The oracle, with rows of its own beside the main buffers."""
        place = self.place
        self._oracle = self._adversarial = AdversarialOracle(
            self.evaluation.module, self.layout, self.main, place.rows, place.seed, self.draws, self.settings,
            self.attack, self._start,
        )  # fmt: skip
        self.buffers = {**self.main, **self._adversarial.kept}

    def alone(self, row: int) -> AdversarialObjective:
        """See :class:`decentral.problems.objective.Objective`."""
        one = super().alone(row)
        assert isinstance(one, AdversarialObjective)
        one.main = {name: one.buffers[name] for name in self.main}
        one._furnish()
        for name, rows in one._adversarial.kept.items():
            rows.copy_(self.buffers[name][row : row + 1])
        return one

    def attacked_by(self, attacker: Attacker) -> None:
        """From here on ``attacker`` makes the examples."""
        self._adversarial.attacker = attacker

    def examples(self, x: Tensor, t: int) -> list[Tensor]:
        """Of each hosted worker, adversarial examples of its batch of round t against its row of x (h, d)."""
        inputs, labels = self._full or self._batch(t)
        return self._adversarial.attacked(x, inputs, labels, t)

    def evaluate(self, mean: Tensor, x: Tensor, comm: Communicator, last: bool) -> dict[str, float]:
        """As on samples alone; and adversarial_accuracy, of the averaged model, on examples made against itself."""
        values = self.evaluation.measure(mean, x, self.main, comm, last)
        averaged = average(self.main, comm)
        right = self._right(mean[0], averaged, last) if comm.rank == 0 else float("nan")
        return values | {"adversarial_accuracy": right}

    def _right(self, model: Tensor, buffers: dict[str, Tensor], last: bool) -> float:
        """The share of test data, moved against the model (d,) as it is judged, that it still gets right."""
        of, seen = self.evaluation, slice(None) if last else self.evaluation.some
        of.module.eval()
        with of.generators.kept():
            of.generators.seed(self.place.seed, "evaluation", "attack")
            parts = [
                self._moved_right(model, buffers, x, y) for x, y in chunks(of.test_x[seen], of.test_y[seen])
            ]
        of.module.train()
        return sum(parts) / len(of.test_y[seen])

    def _moved_right(self, model: Tensor, buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> int:
        examples = self.attack.examples(model, buffers, x, y)
        with torch.no_grad():
            return self.evaluation.count_right("adversarial", model, buffers, examples, y)


def _refuse_states(module: nn.Module) -> None:
    """An attacker is sent parameters alone. What torch's normalisation keeps is not used in training; more may be."""
    for owner, part in module.named_modules():
        named = list(dict(part.named_buffers(recurse=False)))
        if named and not (isinstance(part, _NormBase) and type(part).__module__.startswith("torch.nn.")):
            raise UserError(
                f"adversarial.attackers = true makes examples on other ranks, which have not the model's buffer "
                f"{shown('.'.join([*filter(None, [owner]), named[0]]))}; set it to false"
            )
