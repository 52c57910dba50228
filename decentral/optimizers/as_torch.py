"""An update rule as a torch optimizer: each parameter is a row by itself, or, where it looks at layers, all are one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decentral.comm.layout import Layout
from decentral.optimizers.packed import Packed, Steps


class RuleOptimizer(Optimizer):
    """``rule`` on parameters or on groups of them, which may have an ``lr`` and a ``weight_decay`` of their own.

    As in torch a parameter without a gradient stays as it is, and so does its state: the fields of the rule's, by name.
    A rule that ``hears`` needs ``step(closure)``, or :meth:`hear` before each step.
    """

    def __init__(self, rule: Steps, parameters: Iterable[Any], lr: float, weight_decay: float) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} = {value} must be at least 0 and finite; 0.1 and 0.0 are usual")
        self.rule = rule
        self._kind: Any = None  # of the rule's state
        self._layouts: dict[nn.Parameter, Layout] = {}
        self._packed: dict[tuple[int, ...], list[Packed]] = {}
        self._loss: Tensor | None = None
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each parameter that has a gradient; what ``closure``, called first, gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            self.hear(loss)
        for group in self.param_groups:
            rule, lr = self.rule.decayed(group["weight_decay"]), float(group["lr"])
            ready = [p for p in group["params"] if p.grad is not None and p.numel()]
            if rule.whole:
                self._together(rule, ready, lr)
                continue
            for p in ready:
                self._step(rule, p, p.grad, lr)
        self._loss = None
        return loss

    def hear(self, loss: Any) -> None:
        """The loss of the batch that the gradients are of, for the next step of a rule that needs it."""
        if self.rule.hears and loss is not None:
            self._loss = torch.as_tensor(loss).detach().reshape(1)

    @property
    def heard(self) -> Tensor | None:
        """The loss (1,) that the next step of a rule that hears is told; None where there is none yet."""
        return self._loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; a rule that acts on one vector has one group."""
        if self.rule.joint and self.param_groups:
            raise ValueError(
                f"{type(self.rule).__name__} acts on all parameters as one vector, with one lr and weight_decay; give "
                "it one group of parameters"
            )
        super().add_param_group(param_group)

    def _check_joint(self, ready: list[nn.Parameter]) -> None:
        """Raise ValueError where these are not the parameters of the steps before: the first keeps a state of them."""
        if not self.state or not ready:
            return
        tensors = [v for v in self.state.get(ready[0], {}).values() if isinstance(v, Tensor)]
        if max((v.numel() for v in tensors), default=0) != sum(p.numel() for p in ready):
            raise ValueError(
                f"{type(self.rule).__name__} acts on one vector, of the same parameters in every step; let each have a "
                "gradient, or freeze it before the first step"
            )

    def _together(self, rule: Steps, ready: list[nn.Parameter], lr: float) -> None:
        """A step of a rule that looks at layers, on all that are alike."""
        if rule.hears and self._loss is None:
            raise ValueError(
                f"{type(rule).__name__} needs the loss of each batch; call step(closure) or hear(loss)"
            )
        if rule.joint:
            self._check_joint(ready)
        for packed in self._rows(rule, ready):
            if self._loss is not None:
                packed.tell(rule, self.state, self._loss)
            packed.step(rule, self.state, lr)

    def _rows(self, rule: Steps, ready: list[nn.Parameter]) -> list[Packed]:
        """``ready`` in rows: those of a kind with as many steps behind, as before if they are what they were."""
        key = tuple(map(id, ready))
        rows = self._packed.get(key)
        if rows is not None and all(row.is_own(self.state) for row in rows):
            return rows
        alike: dict[Any, list[nn.Parameter]] = {}
        for p in ready:
            alike.setdefault(self._kind_of(rule, p), []).append(p)
        if rule.joint and len(alike) > 1:
            raise ValueError(
                f"{type(rule).__name__} acts on one vector; give it parameters of one dtype and device"
            )
        # a row keeps its state: none of these parameters is in two
        self._packed = {ids: rows for ids, rows in self._packed.items() if not {*ids} & {*key}}
        self._packed[key] = [Packed(parameters, rule.joint) for parameters in alike.values()]
        return self._packed[key]

    def _kind_of(self, rule: Steps, p: nn.Parameter) -> Any:
        """What parameters of one row share; the state of a joint rule is the first one's."""
        kept = {} if rule.joint else self.state[p]
        return p.dtype, p.device, bool(kept), *(v for v in kept.values() if not isinstance(v, Tensor))

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
        return {
            **super().__getstate__(),
            "rule": self.rule,
            "_kind": self._kind,
            "_layouts": {},
            "_packed": {},
            "_loss": self._loss,
        }
