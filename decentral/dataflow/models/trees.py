"""A binary tree LSTM: one cell that the values of a tree's nodes go round through, from the leaves to the root."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decentral.dataflow.edges import State
from decentral.dataflow.ends import Input, Loss
from decentral.dataflow.graph import Network
from decentral.dataflow.groups import Replicate, Ungroup
from decentral.dataflow.nodes import Concat, Cond, Phi
from decentral.dataflow.replicas import Make, add_replicated
from decentral.dataflow.transforms import Embedding, Transform
from decentral.errors import UserError
from decentral.problems.capabilities import BatchSize
from decentral.problems.data import load_trees
from decentral.problems.data.sentiment_trees import NO_LABEL, Tree, Treebank
from decentral.problems.instances import SentimentTrees
from decentral.problems.models.initialise import initialise

LEFT, RIGHT, SCORED = range(3)  # what a value is used for


class TreeLSTM:
    """Values [h, c] of nodes with children l and r, or with a word's vector x (arXiv 1503.00075, its N = 2):

        [i, o, f_l, f_r, u] = W [h_l, h_r] + b,    at a leaf    [i, o, u] = V x + d
        c = sigmoid(i) tanh(u) + sigmoid(f_l) c_l + sigmoid(f_r) c_r,    h = sigmoid(o) tanh(c),    logits = U h + a

    An instance is a tree; key k is tree k of the training and then of the validation part. Its loss is the root's
    cross-entropy. ``every_node``: the loss of a tree to learn from is the mean over its nodes that have a label, each
    of them a row; trees that are only evaluated are judged by their root all the same. Roots need a label.

    ``width``: of x, h and c. ``modules``: embedding (words, width), leaf, cell, head. An inner node costs about
    20 width^2 FLOPs forward. Raises UserError for a width below one.
    """

    def __init__(
        self,
        data: Treebank,
        width: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        every_node: bool = False,
    ) -> None:
        if width < 1:
            raise UserError(f"width = {width} must be at least 1")
        self.every_node = every_node
        self.trees = [LabelledTree(tree, every_node, device) for tree in data.train]
        self.train = range(len(self.trees))
        self.trees += [LabelledTree(tree, False, device) for tree in data.validation]
        self.validation = range(len(self.train), len(self.trees))
        self.classes = torch.split(torch.arange(data.classes, device=device), 1)

        def modules() -> nn.ModuleDict:
            embedding = nn.Embedding(len(data.vocabulary), width)
            cells = {"leaf": Cell(width, 0), "cell": Cell(width, 2), "head": Head(width, data.classes)}
            return nn.ModuleDict({"embedding": embedding, **cells})

        self.modules = cast(nn.ModuleDict, initialise(modules, seed).to(device, dtype))

    def network(self, make: Make, replicas: int = 1) -> Network:
        """A loop with state (key, node), and (key, node, use) for each use of its value; ``replicas`` of the cell."""
        net, trees = Network(), self.trees
        words = net.add("words", Input(lambda key: [(0, (key,), trees[key].words)]))
        embedding = net.add("embedding", make("embedding", Embedding), words)
        leaf = net.add("leaf", make("leaf", Gated), embedding)
        leaves = net.add("leaves", Ungroup(lambda s: [(*s, node) for node in trees[s[0]].leaves]), leaf)
        values = net.add("values", Phi(), leaves)
        if self.every_node:  # else every value has just one use, and its state is (key, node) all the way
            uses = Replicate(lambda s: [(*s, use) for use in trees[s[0]].uses[s[1]]])
            use = net.add("use?", Cond(lambda s: s[2], 3), net.add("uses", uses, values))
        else:
            use = net.add("use?", Cond(lambda s: trees[s[0]].uses[s[1]][0], 3), values)
        pairs = Concat(2, lambda s: (s[0], trees[s[0]].parents[s[1]]))
        children = net.add("children", pairs, (use, LEFT), (use, RIGHT))
        net.connect(add_replicated(net, "cell", make, children, replicas, Gated), values, 1)
        head = net.add("head", make("head"), (use, SCORED))
        loss = net.add("loss", Loss(self._label, lambda s: 1 / len(trees[s[0]].labels)), head)
        loss.learns = lambda key: key in self.train
        net.check()
        return net

    def evaluate(self, keys: Iterable[int]) -> tuple[Tensor, int, int]:
        """(mean of the instances' losses, right rows, rows), tree by tree, its leaves at once; for at least one key."""
        embedding, leaf, cell, head = (self.modules[name] for name in ("embedding", "leaf", "cell", "head"))
        losses, right, rows = [], 0, 0
        for tree in (self.trees[key] for key in keys):
            leaves, values = iter(torch.split(leaf(embedding(tree.words)), 1)), list[Tensor]()
            for below in tree.children:
                values.append(cell(torch.cat([values[i] for i in below], 1)) if below else next(leaves))
            logits = head(torch.cat([values[i] for i in tree.labels]))
            labels = torch.cat([self.classes[label] for label in tree.labels.values()])
            losses.append(cross_entropy(logits, labels))
            right += int((logits.argmax(1) == labels).sum())
            rows += len(labels)
        return torch.stack(losses).mean(), right, rows

    def _label(self, state: State) -> Tensor:
        return self.classes[self.trees[state[0]].labels[state[1]]]


def of(
    problem: SentimentTrees, batch_size: BatchSize, seed: int, dtype: torch.dtype, device: torch.device
) -> TreeLSTM:
    """The model of such a problem, with its instances."""
    del batch_size
    trees = load_trees(problem.trees, problem.data_root or None)
    data = trees.binary() if problem.binary else trees
    return TreeLSTM(data, problem.width, seed, dtype, device, problem.every_node)


aten = torch.ops.aten


class LabelledTree:
    """A tree's nodes by number, children first: ``children``, ``parents``, ``uses``; ``labels`` of those scored."""

    def __init__(self, tree: Tree, every_node: bool, device: torch.device | None) -> None:
        self.children = [() if node.left < 0 else (node.left, node.right) for node in tree]
        self.leaves = [i for i, children in enumerate(self.children) if not children]
        self.words = torch.tensor([tree[i].word for i in self.leaves], device=device)
        scored = range(len(tree)) if every_node else [len(tree) - 1]
        self.labels = {i: tree[i].label for i in scored if tree[i].label != NO_LABEL}
        self.uses = [[SCORED] if i in self.labels else [] for i in range(len(tree))]
        self.parents = [-1] * len(tree)
        for i, children in enumerate(self.children):
            for side, child in enumerate(children):
                self.parents[child] = i
                self.uses[child].append(side)


class Cell(nn.Linear):
    """A word's vector (rows, width), or two children's values (rows, 4 width), to a node's value (rows, 2 width)."""

    def __init__(self, width: int, children: int) -> None:
        super().__init__(max(1, children) * width, (3 + children) * width)
        self.width, self.arity = width, children

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`TreeLSTM`."""
        return self.value_and_gates(x)[0]

    def value_and_gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """And i, o, f of each child, u (rows, (3 + children) width)."""
        h, below = self.parted(x)
        pre = super().forward(h)
        gates = torch.cat([pre[:, : -self.width].sigmoid(), pre[:, -self.width :].tanh()], 1)
        i, o, *forget, u = gates.chunk(3 + self.arity, 1)
        c = i * u
        for f, c_below in zip(forget, below, strict=True):
            c = c + f * c_below
        return torch.cat([o * c.tanh(), c], 1), gates

    def parted(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """What W is applied to, and c of each child."""
        parts = x.chunk(2 * self.arity, 1) if self.arity else (x,)  # h and c of one child after the other
        return torch.cat(parts[::2], 1), parts[1::2]


class Gated(Transform):
    """A :class:`Cell` with its derivative written out; the gates are kept. With z what the gates are functions of:

    do = dh tanh(c),    dc += dh o (1 - tanh(c)^2),    di = dc u,    du = dc i,    df_l = dc c_l,    dc_l = dc f_l
    dz = (di, do, df) sigmoid' and du tanh',    dW = dz' h,    dh = dz W
    """

    module: Cell

    def compute(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Transform`."""
        return self.module.value_and_gates(x)

    def differentiate(self, x: Tensor, gates: Any, dy: Tensor) -> Tensor:
        """See :class:`Transform`."""
        cell, (h, below) = self.module, self.module.parted(x)
        i, o, *forget, u = gates.chunk(3 + cell.arity, 1)
        c = i * u
        for f, c_below in zip(forget, below, strict=True):
            c.addcmul_(f, c_below)
        t, (dh, dc) = c.tanh_(), dy.chunk(2, 1)
        dc = dc + aten.tanh_backward(dh * o, t)
        dz = torch.cat([dc * u, dh * t, *(dc * c_below for c_below in below), dc * i], 1)
        bounded = dz[:, : -cell.width]
        aten.sigmoid_backward(bounded, gates[:, : -cell.width], grad_input=bounded)
        aten.tanh_backward(dz[:, -cell.width :], u, grad_input=dz[:, -cell.width :])
        if cell.weight.requires_grad:
            cell.weight.grad = dz.T @ h if cell.weight.grad is None else cell.weight.grad.addmm_(dz.T, h)
        if cell.bias.requires_grad:
            cell.bias.grad = dz.sum(0) if cell.bias.grad is None else cell.bias.grad.add_(dz.sum(0))
        dx = dz @ cell.weight
        if not forget:
            return dx
        pairs = zip(dx.chunk(cell.arity, 1), forget, strict=True)
        return torch.cat([d for dh_below, f in pairs for d in (dh_below, dc * f)], 1)


class Head(nn.Linear):
    """Values (rows, 2 width) to logits (rows, classes), by h alone."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`TreeLSTM`."""
        return super().forward(x[:, : self.in_features])
