"""What is measured of a model over instances: in plain torch, whichever way it was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from decentral.dataflow.ends import Score
from topologies.streams import stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from decentral.comm import Communicator
    from decentral.dataflow.models import NodeModel

_AT_ONCE = 256  # instances


def row_of(model: NodeModel) -> Tensor:
    """x (1, d): the parameters of ``model.modules``, one after the other."""
    return parameters_to_vector(model.modules.parameters()).detach()[None]


class InstanceObjective:
    """Mean losses and accuracies of the model, over at most ``eval_samples`` instances, always the same ones.

    The last record of a run is over all validation instances.
    """

    optimum = None

    def __init__(self, model: NodeModel, seed: int, eval_samples: int) -> None:
        self.model, self.eval_samples = model, eval_samples
        order = stream(seed, "eval").permutation(len(model.train))[:eval_samples]
        self.train = [model.train[i] for i in order.tolist()]
        self.epoch_samples = len(model.train)

    def evaluate(self, mean: Tensor, x: Tensor, comm: Communicator, last: bool) -> dict[str, float]:
        """Of the model with the parameters ``mean`` (1, d), which it then has."""
        del x, comm
        with torch.no_grad():
            own = list(self.model.modules.parameters())
            for p, part in zip(own, torch.split(mean[0], [p.numel() for p in own]), strict=True):
                p.copy_(part.view_as(p))
        values = {}
        test = self.model.validation[: None if last else self.eval_samples]
        for name, keys in (("train", self.train), ("test", test)):
            score = scored(self.model, keys)
            values[f"{name}_loss"] = score.loss / len(keys)
            values[f"{name}_accuracy"] = score.correct / score.rows
        return values


@torch.no_grad()
def scored(model: NodeModel, keys: Sequence[int]) -> Score:
    """Losses and accuracy of the instances."""
    score = Score()
    for a in range(0, len(keys), _AT_ONCE):
        chosen = keys[a : a + _AT_ONCE]
        loss, right, rows = model.evaluate(chosen)
        score = score.plus(Score(float(loss) * len(chosen), right, rows, len(chosen)))
    return score
