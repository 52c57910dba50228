"""What a torch optimizer gives to a round of a method: a gradient and a learning rate, or its own step of x."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, empty_like, optim, sub, zeros_like
from torch.optim import SGD, Optimizer

from decentral.comm.mixer import Mixer
from decentral.errors import UserError
from decentral.optimizers.as_torch import RuleOptimizer
from decentral.rounds.script.own_step import is_hooked, make_step
from decentral.rounds.script.parameter_row import ParameterRow
from decentral.rounds.trials.gradient_step import Place

_FREE = (
    SGD, optim.Adagrad, optim.Adadelta, optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop
)  # fmt: skip
"""Optimizers whose step does not depend on where it starts, if there is no weight decay."""


class Given(NamedTuple):
    """For one round: gradients, block by block, or None for each; the learning rate; weight decay still to be added.

    ``place``: where in the round the optimizer makes its own step. ``averaged``: with the mean of all gradients.
    """

    gradient: Iterator[tuple[slice, Tensor | None]]
    lr: float
    decay: float
    place: Place | None
    averaged: bool = False


class InnerOptimizer:
    """``optimizer`` of the parameters in ``row``; ``place``: what
    :func:`decentral.rounds.trials.gradient_step.outer_step` says of the method; ``alone``: the method takes plain SGD
    only. ``averages``: the method averages gradients, so an optimizer that is more than plain SGD steps with the mean.
    """

    def __init__(
        self, optimizer: Optimizer, row: ParameterRow, place: Place | None, alone: bool, averages: bool
    ) -> None:
        self.optimizer, self.row, self.place, self.alone = optimizer, row, place, alone
        self.averages = averages
        trained = set(row.parameters)
        groups = enumerate(optimizer.param_groups)
        self._groups_of = [k for k, group in groups for p in group["params"] if p in trained]
        self._before: Tensor | None = None
        self._plain = self._hooked = False  # in this round

    def hear(self, loss: Any) -> None:
        """What ``closure`` gave, for an update rule that hears. Raises UserError if it needs a loss and has none."""
        if isinstance(self.optimizer, RuleOptimizer) and self.optimizer.rule.hears:
            self.optimizer.hear(loss)
            if self.optimizer.heard is None:
                raise UserError(
                    f"{type(self.optimizer.rule).__name__} needs the loss of each batch; call step(closure) with a "
                    "closure that gives it"
                )

    def begin(self, overflown: bool, comm: Mixer, t: int) -> Given:
        """What round t is made with, once; ``overflown``: without a step of the optimizer, so g = 0.

        A mean of gradients is taken here, and is in ``p.grad`` afterwards.
        """
        row = self.row
        rates = [_number(group, "lr", 1.0) for group in self.optimizer.param_groups]
        decays = [_number(group, "weight_decay", 0.0) for group in self.optimizer.param_groups]
        lr, self._plain, self._hooked = max(rates), is_plain(self.optimizer), is_hooked(self.optimizer)
        if self.alone and not self._plain:
            raise UserError(
                "the optimizer has got momentum, which this method has of its own; with OneCycleLR set "
                "cycle_momentum=False"
            )
        if self.averages and (not self._plain or self._hooked):
            return self._averaged(overflown, comm, t, lr, decays)
        if overflown:
            return Given(self._nothing(), lr, 0.0, None)
        place = None if self.averages else self._place_now(decays)
        if place is not None:
            if place == "first":
                self._step(decays)
            return Given(iter([(block.columns, None) for block in row.blocks]), lr, 0.0, place)
        if not self._plain or self._hooked:
            return Given(self._directions(lr, decays), lr, 0.0, None)
        if min(rates) == lr and min(decays) == max(decays):
            return Given(row.gradients(), lr, decays[0], None)
        scales = [rates[k] / lr if lr else 1.0 for k in self._groups_of]
        return Given(row.gradients(scales, [decays[k] for k in self._groups_of]), lr, 0.0, None)

    def end(self, given: Given) -> None:
        """After the method's part of the round, with x back in the row."""
        if given.place == "last":
            self._step([0.0])

    def _averaged(self, overflown: bool, comm: Mixer, t: int, lr: float, decays: list[float]) -> Given:
        gradient = self._nothing() if overflown else self.row.gradients()
        for number, (_, g) in enumerate(gradient):
            assert g is not None
            self.row.put_gradient(number, comm.at(t, number == 0).mean(g))
        if isinstance(self.optimizer, RuleOptimizer) and (loss := self.optimizer.heard) is not None:
            self.optimizer.hear(comm.at(t).along.mean(loss.to(self.row.x)[None])[0])
        if self.place != "first":
            return Given(self._directions(lr, decays), lr, 0.0, None, averaged=True)
        self._step(decays)
        blocks = [(block.columns, None) for block in self.row.blocks]
        return Given(iter(blocks), lr, 0.0, self.place, averaged=True)

    def _place_now(self, decays: list[float]) -> Place | None:
        if self.place == "last":
            free = type(self.optimizer) in _FREE and max(decays) == 0 and not self._hooked
            return self.place if free else None
        return self.place

    def _step(self, decays: list[float]) -> None:
        """The optimizer's own step in place, a parameter without a gradient having one of zeros meanwhile."""
        absent: list[Any] = []
        if max(decays) != 0 or not self._plain or self._hooked:
            absent = [p for p in self.row.parameters if p.grad is None]
        for p in absent:
            p.grad = zeros_like(p)
        try:
            make_step(self.optimizer, self._hooked)
        finally:
            for p in absent:
                p.grad = None

    def _nothing(self) -> Iterator[tuple[slice, Tensor | None]]:
        for number, block in enumerate(self.row.blocks):
            in_place = self.place and not self.averages
            yield block.columns, None if in_place else self.row.room(number).zero_()

    def _directions(self, lr: float, decays: list[float]) -> Iterator[tuple[slice, Tensor | None]]:
        """(x - x') / lr, block by block, where x' is what the optimizer makes of x; x is put back."""
        x = self.row.x
        if self._before is None:
            self._before = empty_like(x)
        before = self._before.copy_(x)
        self._step(decays)
        for number, block in enumerate(self.row.blocks):
            old, new, g = before[:, block.columns], x[:, block.columns], self.row.room(number)
            sub(old, new, out=g)
            if lr:
                g.div_(lr)
            new.copy_(old)
            yield block.columns, g


def is_plain(optimizer: Optimizer) -> bool:
    """Whether its direction is the gradient and its weight decay."""
    groups = optimizer.param_groups
    return type(optimizer) is SGD and not any(g["momentum"] or g["maximize"] for g in groups)


def _number(group: dict[str, Any], key: str, default: float) -> float:
    """A group's setting, for optimizers of any kind: they may have none, or None."""
    value = group.get(key)
    return default if value is None else float(value)
