"""Layers that a stage's blocks run through though another stage owns them.

The borrower keeps copies. After a step it sends their gradients to the owner, which averages a layer's gradient over
all blocks that hold the layer, makes the update, and sends the new parameters back: the duplicates stay equal.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from decentral.stages.stage import Stage


class Lending:
    """What ``stage`` lends and borrows, given ``blocks``: block of layers -> the stage that runs it.

    Layer L is the head, which belongs to the last stage and to the last block.
    ``pairs``: (owner, borrower, layers) that concern this stage, ascending.
    """

    def __init__(self, stage: Stage, blocks: Mapping[range, int]) -> None:
        modules: Sequence[nn.Module] = [*stage.network.layers, stage.network.head]
        owner = {i: k for k, span in enumerate(stage.spans) for i in span} | {stage.depth: stage.count - 1}
        lent: dict[tuple[int, int], set[int]] = {}
        self.holders = dict.fromkeys(range(stage.depth + 1), 0)
        for block, host in blocks.items():
            for i in elements(block, stage.depth):
                self.holders[i] += 1
                if owner[i] != host:
                    lent.setdefault((owner[i], host), set()).add(i)
        self.pairs = [(*pair, sorted(layers)) for pair, layers in sorted(lent.items()) if stage.index in pair]
        self.own = {i: module for i, module in enumerate(modules) if owner[i] == stage.index}
        borrowed = {i for _, borrower, layers in self.pairs if borrower == stage.index for i in layers}
        self.borrowed = {i: copy.deepcopy(modules[i]) for i in sorted(borrowed)}
        self.modules = self.own | self.borrowed

    def gradients(self, layers: Iterable[int]) -> tuple[Tensor, ...]:
        """The gradients of borrowed layers, which are then forgotten here."""
        given = tuple(_gradient(p) for p in self._parameters(layers))
        for i in layers:
            self.borrowed[i].zero_grad(set_to_none=True)
        return given

    def average(self, received: Sequence[tuple[Sequence[int], tuple[Tensor, ...]]]) -> None:
        """Own layers' ``grad`` becomes the mean over the blocks that hold the layer.

        ``received``: (layers, gradients) of each borrower, ascending; they run the earlier blocks, so come first.
        """
        for i, module in self.own.items():
            shares = [(self._offset(layers, i), grads) for layers, grads in received if i in layers]
            if self.holders[i] == 1 and not shares:
                continue
            for k, p in enumerate(module.parameters()):
                parts = [grads[offset + k] for offset, grads in shares]
                if p.grad is not None:
                    parts.append(p.grad)
                if parts:
                    p.grad = functools.reduce(torch.add, parts) / self.holders[i]

    def values(self, layers: Iterable[int]) -> tuple[Tensor, ...]:
        """The parameters of own layers."""
        return tuple(p.detach() for p in self._parameters(layers))

    def take(self, layers: Iterable[int], values: tuple[Tensor, ...]) -> None:
        """Overwrite the copies of borrowed layers."""
        for p, value in zip(self._parameters(layers), values, strict=True):
            p.data = value

    def _parameters(self, layers: Iterable[int]) -> list[nn.Parameter]:
        return [p for i in layers for p in self.modules[i].parameters()]

    def _offset(self, layers: Sequence[int], layer: int) -> int:
        return len(self._parameters(i for i in layers if i < layer))


def elements(block: range, depth: int) -> list[int]:
    """The layers of a block, and the head (layer L) if it is the last one."""
    return [*block, depth] if block.stop == depth else list(block)


def _gradient(p: nn.Parameter) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad
