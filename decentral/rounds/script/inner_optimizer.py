"""What a torch optimizer gives to a round of a method: a gradient and a learning rate, or its own step of x."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, empty_like, optim, sub
from torch.optim import SGD, Optimizer

from decentral.rounds.script.parameter_row import ParameterRow
from decentral.rounds.trials.gradient_step import Place

_FREE = (
    SGD, optim.Adagrad, optim.Adadelta, optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop
)  # fmt: skip
"""Optimizers whose step does not depend on where it starts, if there is no weight decay."""


class Given(NamedTuple):
    """For one round: gradients, block by block, or None for each; the learning rate; weight decay still to be added."""

    gradient: Iterator[tuple[slice, Tensor | None]]
    lr: float
    decay: float
    place: Place | None


class InnerOptimizer:
    """``optimizer`` of the parameters in ``row``; ``place``: what
    :func:`decentral.rounds.trials.gradient_step.outer_step` says of the method.
    """

    def __init__(self, optimizer: Optimizer, row: ParameterRow, place: Place | None) -> None:
        self.optimizer, self.row, self.place = optimizer, row, place
        trained = set(row.parameters)
        groups = enumerate(optimizer.param_groups)
        self._groups_of = [k for k, group in groups for p in group["params"] if p in trained]
        self._before: Tensor | None = None

    def begin(self) -> Given:
        """What the round is made with, once."""
        row = self.row
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        decays = [float(group.get("weight_decay", 0.0)) for group in self.optimizer.param_groups]
        lr = max(rates)
        place = self._place_now(decays)
        if place is not None:
            if place == "first":
                self.optimizer.step()
            return Given(iter([(block.columns, None) for block in row.blocks]), lr, 0.0, place)
        if not self._is_plain():
            return Given(self._directions(lr), lr, 0.0, None)
        if min(rates) == lr and min(decays) == max(decays):
            return Given(row.gradients(), lr, decays[0], None)
        scales = [rates[k] / lr if lr else 1.0 for k in self._groups_of]
        return Given(row.gradients(scales, [decays[k] for k in self._groups_of]), lr, 0.0, None)

    def end(self, given: Given) -> None:
        """After the method's part of the round, with x back in the row."""
        if given.place == "last":
            self.optimizer.step()

    def _is_plain(self) -> bool:
        """Whether the direction is the gradient and its weight decay."""
        groups = self.optimizer.param_groups
        return type(self.optimizer) is SGD and not any(g["momentum"] or g["maximize"] for g in groups)

    def _place_now(self, decays: list[float]) -> Place | None:
        decayed = max(decays) > 0
        if self.place == "last" and (decayed or type(self.optimizer) not in _FREE):
            return None
        if decayed and self._is_plain() and any(p.grad is None for p in self.row.parameters):
            return None  # torch would not let those decay
        return self.place

    def _directions(self, lr: float) -> Iterator[tuple[slice, Tensor | None]]:
        """(x - x') / lr, block by block, where x' is what the optimizer makes of x; x is put back."""
        x = self.row.x
        if self._before is None:
            self._before = empty_like(x)
        before = self._before.copy_(x)
        self.optimizer.step()
        for number, block in enumerate(self.row.blocks):
            old, new, g = before[:, block.columns], x[:, block.columns], self.row.room(number)
            sub(old, new, out=g)
            if lr:
                g.div_(lr)
            new.copy_(old)
            yield block.columns, g
