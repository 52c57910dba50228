"""A method behind an update rule: what it is handed is the rule's direction in place of the gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from decentral.algorithms.traits import Method, traits_of, without_optimizer
from decentral.comm.layout import Layout
from decentral.comm.stand_ins import Averaged
from decentral.errors import UserError
from decentral.optimizers.rule import is_asked, to_ask
from decentral.rounds.advance import advance
from decentral.rounds.by_rows import InBlocks, RowStep
from decentral.rounds.trials.gradient_step import averages_gradients, outer_step

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm import Mixer
    from decentral.optimizers.rule import Evaluate, Rule


Watch = Callable[[RowStep, "Tensor", Any, "Tensor | InBlocks", int], None]
"""(a step of the rule, the models, state and gradients that it will be given, round): for who watches."""


class Both(NamedTuple):
    """The state of the method, and that of the rule."""

    method: Any
    rule: Any


class Ruled:
    """Stands in for ``method`` in a round: what ``[optimizer]`` means where there is ``[algorithm]``.

        x <- the rule's step of x with g,    x <- method.step(x)      for methods that begin with x - lr g and forget g
        x <- method.step(x, d),    d the rule's direction             for others

    The first form, where :func:`outer_step` says "first" (DSGD, D2, exact diffusion, CHOCO, ...), is the rule's own
    step, with the bits that it has in torch. Methods that do more with a gradient (momentum, tracking, x and x - lr g
    side by side) take d for it; so do those that step when x has been mixed (DSGD awc), for the rule's weight decay and
    norms are those of x as it came in.
    A method that averages gradients (PmSGD) does so first, and the rule steps with the mean: norms of layers are those
    of the averaged gradient, and all workers keep the same state.
    Otherwise the rule comes before any communication, and its state stays with its worker. The two states are one,
    which the round loop cuts, a checkpoint keeps and a worker that is away holds still, like a method's own.

    A rule that hears needs :meth:`told`. Of averaged gradients it is told the mean of the losses. What a rule that
    evaluates makes more of x comes next, before any communication, with :meth:`asking`.
    ``watch`` is shown all that the rule is about to be given, :meth:`watched`.
    """

    losses: Callable[[], Tensor] | None = None
    evaluate: Evaluate | None = None
    watch: Watch | None = None
    joins_rows = True  # a gradient in blocks of columns is put together here, some rows at a time

    def __init__(self, method: Method[Any], rule: Rule) -> None:
        method = without_optimizer(method)
        self.method, self.rule = method, rule
        self.averages, self.steps_first = averages_gradients(method), outer_step(method) == "first"
        traits = traits_of(method)
        self.traits = replace(traits, whole=traits.whole or rule.whole)

    def told(self, losses: Callable[[], Tensor]) -> Ruled:
        """This, for a rule that hears: ``losses`` gives those of the batches (h,) that a round's gradients are of."""
        one = copy.copy(self)
        one.losses = losses
        return one

    def under(self, rule: Rule) -> Ruled:
        """This, with another rule before the same method."""
        one = copy.copy(self)
        one.rule = rule
        one.traits = replace(self.traits, whole=traits_of(self.method).whole or rule.whole)
        return one

    def asking(self, evaluate: Evaluate) -> Ruled:
        """This, for a rule that evaluates the loss."""
        one = copy.copy(self)
        one.evaluate = evaluate
        return one

    def watched(self, watch: Watch) -> Ruled:
        """This, with somebody who looks, before each step of the rule, at what it will be given."""
        one = copy.copy(self)
        one.watch = watch
        return one

    def init(self, x: Tensor, comm: Mixer) -> Both:
        """Both as they begin."""
        return Both(self.method.init(x, comm), self.rule.init(x, _layout(x, comm)))

    def step(
        self, x: Tensor, state: Both, g: Tensor | InBlocks, comm: Mixer, lr: float
    ) -> tuple[Tensor, Both]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        of_rule = self._heard(state.rule, comm) if self.rule.hears else state.rule
        rest = comm
        if self.averages:
            g, rest = _mean(g, comm).expand(x.shape), Averaged(comm)
        step = RowStep(self.rule, _layout(x, comm), lr, in_place=self.steps_first)
        if self.watch is not None:
            self.watch(step, x, of_rule, g, comm.t)
        d, of_rule = step(x, of_rule, g)
        if self.rule.evaluates and self.evaluate is not None:
            mean = (lambda v: comm.along.mean(v)) if self.averages else _own
            of_rule = self.rule.evaluated(x, of_rule, self.evaluate, mean)
        if not self.rule.whole or traits_of(self.method).whole or comm.whole or len(x) == 1:
            # without d where the method knows what that means
            x, of_method = self.method.step(x, state.method, d, rest, lr)  # type: ignore[arg-type]
        else:
            directions = [(slice(0, x.shape[1]), d)]
            x, of_method = advance(self.method, x, state.method, directions, rest, comm.t, lr)
        return x, Both(of_method, of_rule)

    def _heard(self, state: Any, comm: Mixer) -> Any:
        if self.losses is None:
            raise ValueError(f"{type(self.rule).__name__} needs the loss of each batch, and nobody tells it")
        losses = self.losses()
        if self.averages:
            losses = comm.along.mean(losses[:, None]).expand(len(losses), 1)[:, 0]
        return self.rule.heard(state, losses)


def ruled(method: Method[Any], rule: Rule | None, weight_decay: float) -> tuple[Method[Any], float]:
    """(the method behind the rule, or itself where there is none to ask; the weight decay left to the round)."""
    asked, left = to_ask(rule, weight_decay)
    return (method if asked is None else Ruled(method, asked)), left


def refuse_second_rule(method: Method[Any], rule: Rule | None) -> None:
    """Raise UserError if the method makes its steps by an optimizer of its own, in whose place the rule cannot be."""
    if is_asked(rule):
        try:
            without_optimizer(method)
        except ValueError as error:
            raise UserError(f"[algorithm] {error}; or remove [optimizer]") from None


def _mean(g: Tensor | InBlocks, comm: Mixer) -> Tensor:
    """The mean of all workers' gradients; of each block by itself where no messages are, which is the same mean."""
    if not isinstance(g, InBlocks) or comm.ranks > 1 or comm.whole:
        return comm.mean(g[:])
    return torch.cat([comm.at(comm.t, not k).mean(block) for k, block in enumerate(g.blocks)], dim=1)


def refuse_boost(method: Method[Any], rule: Rule | None) -> None:
    """Raise UserError where a rule moves x itself, and the method does more than a gradient step, or not first."""
    if rule is not None and rule.evaluates and outer_step(method) != "first":
        raise UserError(
            f"{rule.title} makes steps of x itself, and {type(method).__name__} is handed a direction in place of a "
            "gradient; use a method that steps and then mixes, such as dsgd, or pmsgd with algorithm.momentum = 0"
        )


def _own(numbers: Tensor) -> Tensor:
    return numbers


def _layout(x: Tensor, comm: Mixer) -> Layout:
    """Of the models; one span where the layers are not known."""
    return comm.layout or Layout.whole(x.shape[1])
