"""Where messages begin and where they turn round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from decentral.dataflow.edges import Message, State
from decentral.dataflow.nodes import Node
from decentral.dataflow.payloads import joined, pieces, rows_of
from decentral.dataflow.queues import Queued, taken
from decentral.runtime.requests import NonFiniteError
from topologies.wording import shown

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

    @torch.no_grad()
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

    @torch.no_grad()
    def run_forward(self, most: int) -> None:
        """See :class:`Queued`: the losses, and their gradients."""
        states, payloads = zip(*taken(self.waiting, most), strict=True)
        rows = list(map(rows_of, payloads))
        x, y = joined(payloads, rows), torch.cat(list(map(self.labels_of, states)))
        weights = [self.weight_of(state) if self.weight_of else 1.0 for state in states]
        each = x.new_tensor([w / n for w, n in zip(weights, rows, strict=True) for _ in range(n)])
        log_p = x.log_softmax(1)
        loss = float(nll_loss(log_p, y, reduction="none") @ each)
        if not math.isfinite(loss):
            keys = ", ".join(str(state[0]) for state in states[:3])
            raise NonFiniteError(
                f"node {shown(self.name)}: the loss of instance {keys} is not finite; lower train.lr"
            )
        # what autograd does for cross_entropy, to the bit
        dlog_p = torch.zeros_like(log_p).scatter_(1, y[:, None], -each[:, None])
        dx = torch.ops.aten._log_softmax_backward_data(dlog_p, log_p, 1, x.dtype)
        right = int((x.argmax(1) == y).sum())
        self.score = self.score.plus(Score(loss, right, len(y), len(states)))
        learns = [self.learns(state[0]) for state in states]
        answers = zip(states, pieces(dx, rows), learns, strict=True)
        self.ins[0].backward([(state, gradient if learn else None) for state, gradient, learn in answers])

    def run_backward(self, most: int) -> None:
        """Never: nothing comes after it."""
        raise NotImplementedError
