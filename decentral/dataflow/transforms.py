"""Nodes that compute what a module computes, and learn.

A forward pass keeps a message's input, not its graph. The backward pass is then free to take messages of several
forward batches at once: it runs the module again on the inputs that they kept, and differentiates that. So a gradient
is the true one at the weights of its backward pass, or, with stashing, at those of its forward pass. Where a derivative
is written out, the forward pass may keep more, so that nothing is run again: activations are then those of the forward
pass, and weights those of the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby, repeat
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from decentral.dataflow.edges import Message, State
from decentral.dataflow.payloads import cut, cut_like, joined, rows_of
from decentral.dataflow.queues import Queued, taken
from decentral.dataflow.stash import Stash
from decentral.dataflow.updates import Updates

_NOT_TWICE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
_version = itemgetter(0)


class Transform(Queued):
    """y = f(x), by any ``torch.nn.Module`` that maps (rows, features) to (rows, features), row by row.

    With parameters it is the paper's PPT, without its NPT. ``updates``: when and how the parameters change.
    ``stash``: the backward pass of a message has the parameters of its forward pass; a copy of them is kept for each
    update that messages under way have not seen.
    Cost of a message: one forward pass forward, one forward and one backward pass backward.
    """

    def __init__(self, module: nn.Module, updates: Updates | None = None, stash: bool = False) -> None:
        super().__init__()
        random = next((m for m in module.modules() if isinstance(m, _NOT_TWICE)), None)
        if random is not None:
            raise ValueError(
                f"a {type(random).__name__} gives another result each time, and a backward pass runs its module again; "
                "leave it out"
            )
        self.module = module
        self.replica = 0, 1  # number i of n copies: instances of key k come here where k modulo n = i
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.updates = updates
        self.kept: dict[State, tuple[int, int, Any, Any]] = {}  # updates so far, rows, input, activations
        self.stash = Stash(self.parameters) if stash else None

    def held(self) -> int:
        """Messages in the queues, inputs and versions of the parameters that are kept."""
        return super().held() + len(self.kept) + (len(self.stash.versions) if self.stash else 0)

    @torch.no_grad()  # views cost half as much more with gradients
    def run_forward(self, most: int) -> None:
        """See :class:`Queued`."""
        batch = taken(self.waiting, most)
        version = self.updates.count if self.updates else 0
        if self.stash:
            self.stash.keep(version, len(batch))
        states, payloads = zip(*batch, strict=True)
        rows = list(map(rows_of, payloads))
        y, activations = self.compute(joined(payloads, rows))
        found = cut(y, rows)
        more = found if activations is y else cut(activations, rows)
        self.kept.update(zip(states, zip(repeat(version), rows, payloads, more, strict=False), strict=True))
        self.outs[0].forward(list(zip(states, found, strict=True)))

    @torch.no_grad()
    def run_backward(self, most: int) -> None:
        """See :class:`Queued`. Where no gradient is wanted the input is forgotten, and that is all."""
        batch = [(*self.kept.pop(state), state, dy) for state, dy in taken(self.answers, most)]
        wanted = [kept for kept in batch if kept[-1] is not None]
        answers: list[Message] = []
        if not self.stash:
            answers += self._differentiated(wanted)
        else:
            for version, part in groupby(sorted(wanted, key=_version), _version):
                with self.stash.weights_of(version):
                    answers += self._differentiated(list(part))
            self.stash.forget(map(_version, batch))
        if self.updates and answers:
            self.updates.gradients_of([state for state, _ in answers])
        if len(wanted) < len(batch):
            answers += [(kept[-2], None) for kept in batch if kept[-1] is None]
        self.ins[0].backward(answers)

    def _differentiated(self, batch: list[Any]) -> Iterable[Message]:
        """The answers to messages (*kept, state, gradient)."""
        if not batch:
            return ()
        versions, rows, payloads, activations, states, gradients = zip(*batch, strict=True)
        if self.updates:
            self.updates.staleness.update(map(self.updates.count.__sub__, versions))
        more = None if activations[0] is None else joined(activations)
        dx = self.differentiate(joined(payloads, rows), more, joined(gradients))
        return zip(states, cut_like(dx, payloads, rows), strict=True)

    def instance_done(self, key: int) -> None:
        """An instance has gone through the network and back."""
        i, copies = self.replica
        if self.updates and key % copies == i:
            self.updates.instance_done()

    def compute(self, x: Tensor) -> tuple[Tensor, Any]:
        """y, and activations that the backward pass is to have, a row for each of y; None without."""
        return self.module(x), None

    def differentiate(self, x: Tensor, activations: Any, dy: Tensor) -> Tensor | None:
        """Add to the parameters' ``grad``; the gradient at x, None for integers."""
        x = x.detach()  # a payload may also be with other nodes
        if x.is_floating_point():
            x.requires_grad_()
        with torch.enable_grad():
            y = self.module(x)
        if y.requires_grad:
            torch.autograd.backward(y, dy)
        return x.grad


class Linear(Transform):
    """y = x W' + b, with its derivative written out.

    dx = dy W,    dW = dy' x,    db = sum of the rows of dy
    """

    module: nn.Linear

    def differentiate(self, x: Tensor, activations: Any, dy: Tensor) -> Tensor:
        """See :class:`Transform`."""
        weight, bias = self.module.weight, self.module.bias
        if weight.requires_grad:
            dw = dy.T @ x
            weight.grad = dw if weight.grad is None else weight.grad.add_(dw)
        if bias is not None and bias.requires_grad:
            bias.grad = dy.sum(0) if bias.grad is None else bias.grad.add_(dy.sum(0))
        return dy @ weight


class Embedding(Transform):
    """Row ids[k] of the table for each of a message's ids (rows,), an integer vector. Ids have no gradient."""

    module: nn.Embedding

    def differentiate(self, x: Tensor, activations: Any, dy: Tensor) -> None:
        """See :class:`Transform`."""
        weight = self.module.weight
        if weight.requires_grad:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.index_add_(0, x, dy)
