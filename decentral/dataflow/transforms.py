"""Nodes that compute: their messages are queued, and those that wait together are computed together.

A forward pass keeps a message's input, not its graph. The backward pass is then free to take messages of several
forward batches at once: it runs the module again on the inputs that they kept, and differentiates that. So a gradient
is the true one at the weights of its backward pass, or, with stashing, at those of its forward pass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from decentral.dataflow.edges import Message, State
from decentral.dataflow.nodes import Node, pieces, whole
from decentral.dataflow.updates import Updates

Queue = deque[Message]
_NOT_TWICE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


class Queued(Node):
    """A node whose messages wait in two queues until its worker calls :meth:`run_forward` or :meth:`run_backward`.

    ``wake()``: tells the worker that a message waits here. ``turns``: whether messages turn round here, so that they
    are as urgent as answers.
    """

    turns: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.waiting: Queue = deque()
        self.answers: Queue = deque()
        self.wake: Callable[[Queued], None] = lambda _: None

    def forward(self, port: int, messages: list[Message]) -> None:
        """Queued."""
        self.waiting += messages
        self.wake(self)

    def backward(self, out: int, messages: list[Message]) -> None:
        """Queued."""
        self.answers += messages
        self.wake(self)

    @abstractmethod
    def run_forward(self, most: int) -> None:
        """Compute the oldest messages, ``most`` of them at most, and emit."""

    @abstractmethod
    def run_backward(self, most: int) -> None:
        """Compute the oldest answers, ``most`` of them at most, and answer."""

    def held(self) -> int:
        """Messages in the queues."""
        return len(self.waiting) + len(self.answers)


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
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.updates = updates
        self.kept: dict[State, tuple[Any, int]] = {}  # input, and how many updates there had been
        self.stashed: dict[int, tuple[list[Tensor], set[State]]] | None = {} if stash else None

    def held(self) -> int:
        """Messages in the queues, and inputs that are kept."""
        return super().held() + len(self.kept)

    def run_forward(self, most: int) -> None:
        """See :class:`Queued`."""
        batch = taken(self.waiting, most)
        version = self.updates.count if self.updates else 0
        if self.stashed is not None:
            if version not in self.stashed:
                self.stashed[version] = [p.detach().clone() for p in self.parameters], set()
            self.stashed[version][1].update(state for state, _ in batch)
        payloads = [payload for _, payload in batch]
        with torch.no_grad():
            y: Tensor = self.module(joined(payloads))
        emitted: list[Message] = []
        for (state, payload), rows in zip(batch, cut(y, payloads), strict=True):
            self.kept[state] = payload, version
            emitted.append((state, rows))
        self.outs[0].forward(emitted)

    def run_backward(self, most: int) -> None:
        """See :class:`Queued`. Where no gradient is wanted the input is forgotten, and that is all."""
        found: dict[int, list[tuple[State, Any, Tensor]]] = {}  # by version
        unwanted: list[Message] = []
        for state, gradient in taken(self.answers, most):
            payload, version = self.kept.pop(state)
            if gradient is None:
                self._forget(version, [state])
                unwanted.append((state, None))
            else:
                found.setdefault(0 if self.stashed is None else version, []).append(
                    (state, payload, gradient)
                )
                if self.updates:
                    self.updates.staleness[self.updates.count - version] += 1
        answers: list[Message] = []
        for version, batch in found.items():
            states, payloads, gradients = zip(*batch, strict=True)
            with self._weights_of(version):
                dx = self.differentiate(joined(payloads), joined(gradients))
            self._forget(version, states)
            answers += zip(states, cut_like(dx, payloads), strict=True)
        if self.updates and answers:
            self.updates.gradients_of([state for state, _ in answers])
        self.ins[0].backward(answers + unwanted)

    @contextmanager
    def _weights_of(self, version: int) -> Iterator[None]:
        if self.stashed is None:
            yield
            return
        current = [p.data for p in self.parameters]
        for p, old in zip(self.parameters, self.stashed[version][0], strict=True):
            p.data = old
        try:
            yield
        finally:
            for p, now in zip(self.parameters, current, strict=True):
                p.data = now

    def _forget(self, version: int, states: Sequence[State]) -> None:
        if self.stashed is not None:
            self.stashed[version][1].difference_update(states)
            if not self.stashed[version][1]:
                del self.stashed[version]

    def differentiate(self, x: Tensor, dy: Tensor) -> Tensor | None:
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
    """y = x W' + b, with its derivative written out: no second forward pass.

    dx = dy W,    dW = dy' x,    db = sum of the rows of dy
    """

    module: nn.Linear

    def differentiate(self, x: Tensor, dy: Tensor) -> Tensor:
        """See :class:`Transform`."""
        weight, bias = self.module.weight, self.module.bias
        with torch.no_grad():
            if weight.requires_grad:
                dw = dy.T @ x
                weight.grad = dw if weight.grad is None else weight.grad.add_(dw)
            if bias is not None and bias.requires_grad:
                bias.grad = dy.sum(0) if bias.grad is None else bias.grad.add_(dy.sum(0))
            return dy @ weight


class Embedding(Transform):
    """Row ids[k] of the table for each of a message's ids (rows,), an integer vector. Ids have no gradient."""

    module: nn.Embedding

    def differentiate(self, x: Tensor, dy: Tensor) -> None:
        """See :class:`Transform`."""
        weight = self.module.weight
        if not weight.requires_grad:
            return
        with torch.no_grad():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.index_add_(0, x, dy)


def taken(queue: Queue, most: int) -> list[Message]:
    """The oldest messages."""
    if len(queue) <= most:
        batch = list(queue)
        queue.clear()
        return batch
    return [queue.popleft() for _ in range(most)]


def joined(payloads: Sequence[Any]) -> Tensor:
    """One tensor (all rows, features) of messages' payloads; tuples' parts go side by side."""
    first = payloads[0]
    if len(payloads) == 1:
        return whole(first)
    if not _alike(payloads):
        return torch.cat([whole(payload) for payload in payloads])
    if type(first) is tuple:
        return torch.cat([torch.cat(parts) for parts in zip(*payloads, strict=True)], dim=1)
    return torch.cat(list(payloads))


def _alike(payloads: Sequence[Any]) -> bool:
    """Whether all are one tensor, or all tuples of as many."""
    return len({len(p) if type(p) is tuple else 0 for p in payloads}) == 1


def rows_of(payload: Any) -> int:
    """Rows of a payload."""
    return len(payload[0]) if type(payload) is tuple else len(payload)


def cut(y: Tensor, payloads: Sequence[Any]) -> Sequence[Tensor]:
    """The rows of y for each payload."""
    if len(payloads) == 1:
        return (y,)
    return pieces(y, [rows_of(p) for p in payloads])


def cut_like(dx: Tensor | None, payloads: Sequence[Any]) -> Sequence[Any]:
    """The rows of dx for each payload, as a tuple of parts where the payload is one."""
    if dx is None:
        return [None] * len(payloads)
    first = payloads[0]
    if type(first) is not tuple or not _alike(payloads):
        return cut(dx, payloads)
    widths = [part.shape[1] for part in first]
    return list(zip(*(cut(part, payloads) for part in pieces(dx, widths, 1)), strict=True))
