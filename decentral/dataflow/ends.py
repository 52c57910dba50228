"""Where messages begin and where they turn round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from decentral.dataflow.edges import Message, State
from decentral.dataflow.nodes import Node, pieces
from decentral.dataflow.transforms import Queued, joined, rows_of, taken
from decentral.stages.requests import NonFiniteError

Emission = tuple[int, State, Any]
"""(output, state, payload)."""


class Input(Node):
    """Injects instances: ``emit(key)`` gives the messages that an instance begins with.

    ``finished(key)`` is called when the last of them has been answered: nothing of the instance is left in the network.
    """

    inputs = 0

    def __init__(self, emit: Callable[[int], Sequence[Emission]], outputs: int = 1) -> None:
        super().__init__()
        self.emit, self.outputs = emit, outputs
        self.unanswered: dict[int, int] = {}
        self.finished: Callable[[int], None] = lambda _: None

    def inject(self, keys: Sequence[int]) -> None:
        """Emit the instances' messages."""
        emitted: list[list[Message]] = [[] for _ in self.outs]
        for key in keys:
            messages = self.emit(key)
            self.unanswered[key] = len(messages)
            for out, state, payload in messages:
                emitted[out].append((state, payload))
        for edge, part in zip(self.outs, emitted, strict=True):
            if part:
                edge.forward(part)
        for key in [key for key in keys if self.unanswered.get(key) == 0]:  # it has no messages
            self._finish(key)

    def forward(self, port: int, messages: list[Message]) -> None:
        """Never: it has no inputs."""
        raise NotImplementedError

    def backward(self, out: int, messages: list[Message]) -> None:
        """Messages were answered."""
        for (key, *_), _ in messages:
            self.unanswered[key] -= 1
            if not self.unanswered[key]:
                self._finish(key)

    def held(self) -> int:
        """Instances under way."""
        return len(self.unanswered)

    def _finish(self, key: int) -> None:
        del self.unanswered[key]
        self.finished(key)


class Score(NamedTuple):
    """Sums over messages that came to a loss: of their mean losses, right rows, rows, messages."""

    loss: float = 0.0
    correct: int = 0
    rows: int = 0
    messages: int = 0

    def plus(self, other: Score) -> Score:
        """Both."""
        return Score(
            self.loss + other.loss,
            self.correct + other.correct,
            self.rows + other.rows,
            self.messages + other.messages,
        )


class Loss(Queued):
    """Mean cross-entropy of a message's rows (rows, classes) against ``labels_of(state)`` (rows,).

    It turns each message round: its answer is the gradient, or None for instances that are only evaluated
    (``learns(key)`` is false). ``weight_of(state)``: a factor of the message's loss, where not all count alike.
    """

    outputs = 0
    turns: ClassVar[bool] = True

    def __init__(
        self, labels_of: Callable[[State], Tensor], weight_of: Callable[[State], float] | None = None
    ) -> None:
        super().__init__()
        self.labels_of, self.weight_of = labels_of, weight_of
        self.learns: Callable[[int], bool] = lambda _: True
        self.score = Score()

    def run_forward(self, most: int) -> None:
        """See :class:`Queued`: the losses, and their gradients."""
        batch = taken(self.waiting, most)
        payloads = [payload for _, payload in batch]
        labels = [self.labels_of(state) for state, _ in batch]
        sizes = [rows_of(payload) for payload in payloads]
        x, y = joined(payloads).detach().requires_grad_(), torch.cat(labels)
        with torch.enable_grad():
            losses = cross_entropy(x, y, reduction="none")
            if len(batch) == 1:
                weighted = losses.mean() * (self.weight_of(batch[0][0]) if self.weight_of else 1.0)
            else:
                weights = [self.weight_of(state) if self.weight_of else 1.0 for state, _ in batch]
                each = losses.new_tensor(
                    [w / n for w, n in zip(weights, sizes, strict=True) for _ in range(n)]
                )
                weighted = (losses * each).sum()
        if not torch.isfinite(weighted.detach()):
            keys = ", ".join(str(state[0]) for state, _ in batch[:3])
            raise NonFiniteError(
                f"node {self.name!r}: the loss of instance {keys} is not finite; lower train.lr"
            )
        (dx,) = torch.autograd.grad(weighted, x)
        right = int((x.detach().argmax(1) == y).sum())
        self.score = self.score.plus(Score(float(weighted.detach()), right, len(y), len(batch)))
        self.ins[0].backward(
            [
                (state, gradient if self.learns(state[0]) else None)
                for (state, _), gradient in zip(batch, pieces(dx, sizes), strict=True)
            ]
        )

    def run_backward(self, most: int) -> None:
        """Never: nothing comes after it."""
        raise NotImplementedError
