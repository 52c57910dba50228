"""One asynchronous worker: its state, and the program that makes a method's arithmetic go.

Messages are served between computations, on the virtual clock as over MPI: a rank has one thread, so nothing is
answered while a gradient is computed. Only channels of models carry tensors, and on the clock only they take time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from decentral.optimizers.clipping import clipped
from decentral.runtime.requests import Channel, Compute, Done, Program, RecvAny, Send

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.algorithms.asynchronous.side import Neighbourhood, Side
    from decentral.optimizers.rescaling import Rescaling
    from decentral.optimizers.rule import Rule
    from decentral.problems.objective import Objective

MODELS, CONTROL, ACKNOWLEDGED = "models", "control", "acknowledged"
STEP, ENDED = 0, 1  # to the controller
SNAPSHOT, RATE, STOP = 0, 1, 2  # from it
_LAST = ()  # on a channel of models: this neighbour will ask for nothing more


class Worker:
    """Worker ``near.worker``; ``objective`` is its own alone (h = 1), ``controller`` the controller's number.

    ``rule``, with its weight decay, makes the step, from the model as it is then: an average may have moved it since
    the gradient was taken. Without one the gradient is the step's, with the weight decay of the model that it is of.
    ``rescaling``: of the model, after the rule's step of it; where the model is not x itself, when what is to be sent
    has left too. ``clip_norm``: what gradients are cut to; 0 is without. ``t``: own steps so far.
    """

    def __init__(
        self, side: Side, near: Neighbourhood, objective: Objective, controller: int, lr: float,
        weight_decay: float = 0.0, rule: Rule | None = None, clip_norm: float = 0.0,
        rescaling: Rescaling | None = None,
    ) -> None:  # fmt: skip
        self.side, self.near, self.objective = side, near, objective
        self.lr, self.weight_decay = lr, weight_decay
        self.rule, self.clip_norm, self.rescaling = rule, clip_norm, rescaling
        self.rule_state: Any = None if rule is None else rule.init(side.model(), objective.layout)
        self.t = 0
        self.stopped = False
        number = near.worker
        self.orders = Channel(controller, number, CONTROL)
        self.reports = Channel(number, controller, CONTROL)
        self.inbound = tuple(Channel(source, number, MODELS) for source in near.sources)
        if side.acknowledges:
            self.inbound += tuple(Channel(target, number, ACKNOWLEDGED) for target in near.targets)
        self._others = set(near.sources)  # who may still ask

    def run(self) -> Program:
        """The program."""
        while True:
            g, loss = yield Compute("gradient", self._gradient, tag=self.t)
            yield from self._serve()
            if self.stopped:
                break  # the budget is spent: this gradient comes too late
            for target, said in self.side.step(self._directed(g), self.lr, self.t):
                yield self._letter(target, said)
            if self.side.model() is not self.side.x:
                self._rescale()
            self.t += 1
            yield Send(self.reports, (STEP, loss))
        for target in self.near.targets:
            yield Send(Channel(self.near.worker, target, MODELS), _LAST)
        # channels keep their order: after everybody's last word, and all own answers, nothing more can come
        while self._others or self.side.asked > self.side.answered:
            channel, said = yield RecvAny(self.inbound)
            yield from self._receive(channel, said)
        yield Send(self.reports, (ENDED, self.side.asked, self.side.answered))

    def _gradient(self) -> tuple[Tensor, float]:
        """The gradient (1, d) at the model as it is, and the loss there."""
        x = self.side.model()
        gradient = self.objective.gradient(x, self.t)
        if self.clip_norm:
            gradient = clipped(gradient, self.clip_norm)
        blocks = [g for _, g in gradient]
        g = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        if self.weight_decay:
            g = g.add(x, alpha=self.weight_decay)
        return g, float(self.objective.losses[0])

    def _directed(self, g: Tensor) -> Tensor | None:
        """What is left for the method's step to do: None where the rule has made it, on a model that is x itself."""
        if self.rule is None:
            return g
        x, layout = self.side.model(), self.objective.layout
        if self.rule.hears:  # of the batch that g is of: no other gradient was asked for since
            self.rule_state = self.rule.heard(self.rule_state, self.objective.losses)
        if x is self.side.x:
            self.rule_state = self.rule.step_(x, self.rule_state, g, layout, self.lr)
            self._rescale()
            return None
        d, self.rule_state = self.rule.direction(x, self.rule_state, g, layout, self.lr)
        return d

    def _rescale(self) -> None:
        """If it is time. A model that is a multiple of x is rescaled by x, so that it has norm 1."""
        if self.rescaling is not None and self.rescaling.is_due(self.t):
            views = self.objective.layout.views
            self.rescaling.act(views(self.side.x), self.objective.buffers, views(self.side.model()))

    def _serve(self) -> Program:
        """All that has come, the controller's words first."""
        while (found := (yield RecvAny((self.orders, *self.inbound), wait=False))) is not None:
            channel, said = found
            if channel != self.orders:
                yield from self._receive(channel, said)
            elif said[0] == SNAPSHOT:
                yield Done(said[1])
            elif said[0] == RATE:
                self.lr = said[1]
            else:
                self.stopped = True

    def _receive(self, channel: Channel, said: tuple[Any, ...]) -> Program:
        if channel.name == ACKNOWLEDGED:
            self.side.acknowledged(channel.source)
            return
        if said == _LAST:
            self._others.discard(channel.source)
            return
        for target, answer in self.side.receive(channel.source, said, self.t):
            yield self._letter(target, answer)
        if self.side.acknowledges:
            yield Send(Channel(self.near.worker, channel.source, ACKNOWLEDGED), ())

    def _letter(self, target: int, said: tuple[Any, ...]) -> Send:
        return Send(Channel(self.near.worker, target, MODELS), said)
