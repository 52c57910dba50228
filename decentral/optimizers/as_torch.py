"""An update rule as a torch optimizer: each parameter is a row by itself, with a layout of one span."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decentral.comm.layout import Layout


class Steps(Protocol):
    """What is asked of a :class:`decentral.optimizers.rule.Rule` here."""

    def decayed(self, weight_decay: float) -> Self:
        """With that weight decay."""

    def init(self, x: Tensor, layout: Layout) -> Any:
        """The state before the first step."""

    def step_(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> Any:
        """A step, made on x."""


class RuleOptimizer(Optimizer):
    """``rule`` on parameters or on groups of them, which may have an ``lr`` and a ``weight_decay`` of their own.

    As in torch a parameter without a gradient stays as it is, and so does its state: the fields of the rule's, by name.
    """

    def __init__(self, rule: Steps, parameters: Iterable[Any], lr: float, weight_decay: float) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} = {value} must be at least 0 and finite; 0.1 and 0.0 are usual")
        self.rule = rule
        self._kind: Any = None  # of the rule's state
        self._layouts: dict[nn.Parameter, Layout] = {}
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each parameter that has a gradient; what ``closure``, called first, gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rule, lr = self.rule.decayed(group["weight_decay"]), float(group["lr"])
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    self._step(rule, p, p.grad, lr)
        return loss

    def _step(self, rule: Steps, p: nn.Parameter, grad: Tensor, lr: float) -> None:
        x, kept = p.reshape(1, -1), self.state[p]
        layout = self._layouts.get(p)
        if layout is None:
            layout = self._layouts[p] = Layout.of([("", p)])
        self._kind = self._kind or type(rule.init(x[:0], layout))
        state = self._kind(**kept) if kept else rule.init(x, layout)
        state = rule.step_(x, state, grad.reshape(1, -1), layout, lr)
        if state:
            kept.update(state._asdict())
        if x.data_ptr() != p.data_ptr():  # it does not lie in one piece
            p.copy_(x.view_as(p))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "_kind": self._kind, "_layouts": {}}
