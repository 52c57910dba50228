"""A multilayer perceptron whose instances are minibatches: a chain, the network that needs no dataflow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decentral.dataflow.ends import Input, Loss
from decentral.dataflow.graph import Network
from decentral.dataflow.nodes import Node
from decentral.dataflow.replicas import Make, add_replicated
from decentral.dataflow.transforms import Linear, Transform
from decentral.errors import UserError
from decentral.problems import classification as settings
from decentral.problems.capabilities import BatchSize
from decentral.problems.data import load
from decentral.problems.data.dataset import Dataset
from decentral.problems.models.dense import mlp
from decentral.problems.models.initialise import initialise
from topologies.streams import stream


class MLP:
    """Layers a = W x + b with ReLU between them, on flattened examples (B, features).

    Key k of ``train`` is a minibatch: samples k B .. (k + 1) B - 1 of one order, drawn from the stream (seed,
    "minibatches"). ``validation`` are those of the test set, as it lies. The last of either may be smaller.
    The loss of an instance is the mean cross-entropy of its rows.

    ``hidden``: units of each hidden layer. ``modules``: linear0, linear1, ..., as
    `decentral.problems.models.dense.mlp` initialises them. A row costs about 2 FLOPs a weight forward and 4 backward.
    Raises UserError for a batch size or a width below one.
    """

    def __init__(
        self,
        data: Dataset,
        hidden: Sequence[int],
        batch_size: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size} must be at least 1")
        order = torch.from_numpy(stream(seed, "minibatches").permutation(len(data.train_y)))
        train_x, train_y, test_x, test_y = (
            part.to(device) for part in (data.train_x, data.train_y, data.test_x, data.test_y)
        )
        train = [(train_x, train_y, rows) for rows in torch.split(order.to(device), batch_size)]
        test = torch.split(torch.arange(len(test_y), device=device), batch_size)
        self.minibatches = train + [(test_x, test_y, rows) for rows in test]
        self.train = range(len(train))
        self.validation = range(len(train), len(self.minibatches))
        self.dtype = dtype
        whole = initialise(lambda: mlp(data.shape, data.classes, hidden), seed).to(device, dtype)
        layers = [layer for layer in whole.modules() if isinstance(layer, nn.Linear)]
        self.modules = nn.ModuleDict({f"linear{i}": layer for i, layer in enumerate(layers)})

    def network(self, make: Make, replicas: int = 1) -> Network:
        """A chain; ``replicas`` of the layer with the most weights, the first of such."""
        net = Network()
        node: Node = net.add("minibatch", Input(lambda key: [(0, (key,), self._inputs(key))]))
        sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in self.modules.items()}
        heaviest = max(sizes, key=sizes.__getitem__)
        for i, name in enumerate(sizes):
            if i:
                node = net.add(f"relu{i}", Transform(nn.ReLU()), node)
            node = add_replicated(net, name, make, node, replicas if name == heaviest else 1, Linear)
        loss = net.add("loss", Loss(lambda state: self._labels(state[0])), node)
        loss.learns = lambda key: key in self.train
        net.check()
        return net

    def evaluate(self, keys: Sequence[int]) -> tuple[Tensor, int, int]:
        """(mean of the instances' losses, right rows, rows), minibatch by minibatch; for at least one key."""
        losses, right, rows = [], 0, 0
        for key in keys:
            logits, labels = self._inputs(key), self._labels(key)
            for i, layer in enumerate(self.modules.values()):
                logits = layer(logits.relu() if i else logits)
            losses.append(cross_entropy(logits, labels))
            right += int((logits.argmax(1) == labels).sum())
            rows += len(labels)
        return torch.stack(losses).mean(), right, rows

    def _inputs(self, key: int) -> Tensor:
        x, _, rows = self.minibatches[key]
        return x[rows].flatten(1).to(self.dtype)

    def _labels(self, key: int) -> Tensor:
        _, y, rows = self.minibatches[key]
        return y[rows]


def of(
    problem: settings.MLP, batch_size: BatchSize, seed: int, dtype: torch.dtype, device: torch.device
) -> MLP:
    """The model of such a problem, with its instances."""
    data = load(problem.data, problem.data_root or None)
    size = len(data.train_y) if batch_size == "full" else batch_size
    return MLP(data, problem.hidden, size, seed, dtype, device)
