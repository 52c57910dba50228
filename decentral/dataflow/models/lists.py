"""A recurrent network over lists: one cell in a loop that each list goes round as often as it has tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decentral.dataflow.edges import State
from decentral.dataflow.ends import Emission, Input, Loss
from decentral.dataflow.graph import Network
from decentral.dataflow.groups import Ungroup
from decentral.dataflow.nodes import Concat, Cond, Phi, StateUpdate
from decentral.dataflow.replicas import Make, add_replicated
from decentral.dataflow.transforms import Embedding, Linear
from decentral.errors import UserError
from decentral.problems.capabilities import BatchSize
from decentral.problems.data.list_reduction import CLASSES, TOKENS, Lists, list_reduction
from decentral.problems.instances import ListReduction
from decentral.problems.models.initialise import initialise


class Cell(nn.Linear):
    """y = relu(x W' + b), x (rows, token and hidden), y (rows, hidden)."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`torch.nn.Module`."""
        return super().forward(x).relu()


class Recurrent(Linear):
    """A :class:`Cell` with its derivative written out: dy counts where y > 0, and the rest is linear. Keeps y."""

    def compute(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Transform`."""
        y = self.module(x)
        return y, y

    def differentiate(self, x: Tensor, y: Any, dy: Tensor) -> Tensor:
        """See :class:`Transform`."""
        return super().differentiate(x, None, torch.ops.aten.threshold_backward(dy, y, 0.0))


class ListRNN:
    """h_0 = 0,    h_{i+1} = relu(W [e(token_i), h_i] + b) for each of T tokens,    logits = V h_T + c.

    An instance is a list; key k is list k of the training and then of the validation data. Its loss is the
    cross-entropy of its one row of logits (1, 10).

    ``data``: training and validation lists, of the same longest. ``width``: of e and h. ``modules``: embedding
    (14, width), cell, head. A token costs about 4 width^2 FLOPs forward.
    Raises UserError for a width below one.
    """

    def __init__(
        self,
        data: tuple[Lists, Lists],
        width: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        if width < 1:
            raise UserError(f"width = {width} must be at least 1")
        self.tokens = torch.cat([lists.tokens for lists in data]).to(device)
        self.labels = torch.cat([lists.labels for lists in data]).to(device)
        self.lengths: list[int] = torch.cat([lists.lengths for lists in data]).tolist()
        self.inputs = torch.split(self.tokens[self.tokens >= 0], self.lengths)
        self.answers = torch.split(self.labels, 1)
        self.train = range(len(data[0]))
        self.validation = range(len(data[0]), len(self.lengths))
        self.first = torch.zeros(1, width, dtype=dtype, device=device)

        def modules() -> nn.ModuleDict:
            embedding, head = nn.Embedding(TOKENS, width), nn.Linear(width, CLASSES)
            return nn.ModuleDict({"embedding": embedding, "cell": Cell(2 * width, width), "head": head})

        self.modules = cast(nn.ModuleDict, initialise(modules, seed).to(device, dtype))

    def network(self, make: Make, replicas: int = 1) -> Network:
        """A loop with state (key, i) at token i; ``replicas`` of the cell."""
        net = Network()
        lists = net.add("list", Input(self._emit, outputs=2))
        embedding = net.add("embedding", make("embedding", Embedding), (lists, 0))
        tokens = net.add("tokens", Ungroup(self._states), embedding)
        hidden = net.add("hidden", Phi(), (lists, 1))
        both = net.add("both", Concat(), tokens, hidden)
        cell = add_replicated(net, "cell", make, both, replicas, Recurrent)
        last = net.add("last?", Cond(lambda state: int(state[1] + 1 == self.lengths[state[0]])), cell)
        following = StateUpdate(
            lambda state: (state[0], state[1] + 1), lambda state: (state[0], state[1] - 1)
        )
        net.connect(net.add("next", following, (last, 0)), hidden, 1)
        head = net.add("head", make("head", Linear), (last, 1))
        loss = net.add("loss", Loss(lambda state: self.answers[state[0]]), head)
        loss.learns = lambda key: key in self.train
        net.check()
        return net

    def evaluate(self, keys: Sequence[int]) -> tuple[Tensor, int, int]:
        """(mean of the instances' losses, right rows, rows), as one minibatch; for at least one key.

        Rows lie by descending length; those of lists that have ended are set aside, so padding costs no cell.
        """
        order = sorted(keys, key=lambda key: -self.lengths[key])
        lengths = [self.lengths[key] for key in order]
        tokens = self.tokens[order, : lengths[0]].clamp(min=0)
        hidden, ended = self.first.expand(len(order), -1), []
        for i, token in enumerate(self.modules["embedding"](tokens).unbind(1)):
            rows = sum(length > i for length in lengths)
            if rows < len(hidden):
                ended.append(hidden[rows:])
            hidden = self.modules["cell"](torch.cat([token[:rows], hidden[:rows]], 1))
        logits, labels = self.modules["head"](torch.cat([hidden, *reversed(ended)])), self.labels[order]
        right = int((logits.argmax(1) == labels).sum())
        return cross_entropy(logits, labels), right, len(order)

    def _emit(self, key: int) -> list[Emission]:
        return [(0, (key,), self.inputs[key]), (1, (key, 0), self.first)]

    def _states(self, state: State) -> list[State]:
        return [(state[0], i) for i in range(self.lengths[state[0]])]


def of(
    problem: ListReduction, batch_size: BatchSize, seed: int, dtype: torch.dtype, device: torch.device
) -> ListRNN:
    """The model of such a problem, with its instances."""
    del batch_size
    data = list_reduction(problem.train, problem.validation, problem.longest)
    return ListRNN(data, problem.width, seed, dtype, device)
