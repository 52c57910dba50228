"""The synchronous baseline: the same modules and instances in plain torch, a minibatch after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from decentral.dataflow.ends import Score
from decentral.runtime.requests import NonFiniteError

if TYPE_CHECKING:
    from decentral.dataflow.models import NodeModel


class Synchronous:
    """``build`` makes the optimizer of the model's parameters; ``minibatch``: instances of an update."""

    def __init__(
        self, model: NodeModel, build: Callable[[Any], torch.optim.Optimizer], minibatch: int
    ) -> None:
        self.model, self.minibatch = model, minibatch
        self.optimizer = build(model.modules.parameters())

    def learn(
        self, keys: Sequence[int], lr: float, on_batch: Callable[[int], None] = lambda _: None
    ) -> Score:
        """One pass over the instances, an update a minibatch; ``on_batch`` is told how many are done."""
        score = Score()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for a in range(0, len(keys), self.minibatch):
            chosen = keys[a : a + self.minibatch]
            loss, right, rows = self.model.evaluate(chosen)
            if not torch.isfinite(loss.detach()):
                raise NonFiniteError(f"the loss of instance {chosen[0]} is not finite; lower train.lr")
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.optimizer.step()
            score = score.plus(Score(float(loss.detach()) * len(chosen), right, rows, len(chosen)))
            on_batch(a + len(chosen))
        return score
