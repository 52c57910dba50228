"""From a configuration to stages: the data, the network, where it is cut, and each stage with its optimizer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from decentral.errors import UserError
from decentral.stages.cut import cut_at, cut_by_cost, cut_evenly
from decentral.stages.head_maker import head_maker
from decentral.stages.local_losses import cross_entropy
from decentral.stages.network import network_of
from decentral.stages.profile import layer_flops
from decentral.stages.samples import Samples
from decentral.stages.shapes import boundary_shapes
from decentral.stages.stage import Stage

if TYPE_CHECKING:
    from decentral.stage_config import StageConfig


class Plan:
    """The network as it was initialised, its data, and its cut; ``stages`` makes fresh stages of it.

    Raises UserError for a cut, a program or heads that do not fit the network.
    """

    def __init__(self, config: StageConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.samples = Samples(config, device)
        self.network = network_of(self.samples.module)
        self.shapes = boundary_shapes(self.network, self.samples.example)
        self.make_head = head_maker(
            self.shapes, self.samples.example.shape, self.samples.classes, config.seed, config.stages.heads
        )
        self.spans = self._cut()
        if hasattr(config.program, "check"):
            try:
                config.program.check(self.spans, self.network.layers)
            except ValueError as error:
                raise UserError(f"[program] {error}") from error
        if name := getattr(config.program, "head", None):
            for layer in range(len(self.shapes) - 1):
                self.head(name, layer)

    def trial(self, steps: int) -> list[Stage]:
        """All stages, with the learning rate 0: to find out what a program costs."""
        made = self.stages(steps)
        for stage in made:
            stage.lr = lambda _: 0.0
        return made

    def stages(self, steps: int, only: Sequence[int] | None = None) -> list[Stage]:
        """Stages of a fresh copy of the network that train for ``steps``; all, or those of ``only``."""
        config, network = self.config, copy.deepcopy(self.network)
        network.modules().train()
        base, rounds = config.train.lr, config.train.rounds
        made = [
            Stage(
                k, self.spans, network, self._optimizer, self.samples.batch, steps,
                lr=lambda t: config.schedule.lr(t, rounds, base), loss=cross_entropy, make_head=self.head,
            )
            for k in (range(len(self.spans)) if only is None else only)
        ]  # fmt: skip
        return made

    def head(self, name: str, layer: int) -> nn.Module:
        """A local head on the outputs of a layer, initialised from the seed and the layer."""
        head: nn.Module = self.make_head(name, layer)
        return head.to(self.device, next(iter(self.network.modules().parameters())).dtype)

    def _optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        train = self.config.train
        optimizer: torch.optim.Optimizer = self.config.optimizer.build(
            parameters, train.lr, train.weight_decay
        )
        return optimizer

    def _cut(self) -> list[range]:
        wish, depth = self.config.stages, len(self.network.layers)
        if isinstance(wish.cut, list):
            return cut_at(depth, wish.cut)
        if wish.cut == "even":
            return cut_evenly(depth, wish.count)
        return cut_by_cost(layer_flops(list(self.network.layers), self.samples.train[0][:2]), wish.count)


def hosts(stages: int, ranks: int) -> list[int]:
    """The rank of each stage: neighbouring stages share one. Raises UserError if there are more ranks than stages."""
    if ranks > stages:
        raise UserError(
            f"stages.count = {stages} but MPI has {ranks} ranks; launch {stages} ranks at the most"
        )
    return [k * ranks // stages for k in range(stages)]
