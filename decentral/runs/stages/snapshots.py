"""What is measured while a program runs: every stage's state at a step, put together on rank 0 as one row.

A stage's state is copied when it has finished the step, so the stages need not meet: the row of step t is the model of
all stages' t-th updates. Over MPI the copies travel to rank 0, which measures when the last one is there.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from decentral.stages.layers import Network
from decentral.stages.stage import Stage

State = dict[str, Tensor]


@dataclass
class Snapshot:
    """One stage after step t: parameters and buffers; before the update of that step, parameters and gradients too.

    ``time_s``: the driver's clock. ``loss``: the training loss of the step, where this stage has it.
    ``bytes_sent``, ``messages``: by this stage so far.
    """

    time_s: float
    after: State
    before: State
    gradients: State
    loss: float | None
    bytes_sent: int
    messages: int


class Observer:
    """Takes the snapshots of one stage at the recorded steps."""

    def __init__(self, stage: Stage, recorded: Callable[[int], bool]) -> None:
        self.stage, self.recorded = stage, recorded
        self.before: dict[int, State] = {}
        self.gradients: dict[int, State] = {}
        stage.on_update = self._before_update

    def _before_update(self, t: int) -> None:
        if self.recorded(t):
            named = dict(_named(self.stage))
            self.before[t] = {name: p.detach().clone() for name, p in named.items()}
            self.gradients[t] = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}

    def snapshot(self, t: int, time_s: float, bytes_sent: int, messages: int) -> Snapshot:
        """The stage as it is after step t."""
        loss = self.stage.losses.get(t)
        after = {name: value.detach().clone() for name, value in _named(self.stage, buffers=True)}
        return Snapshot(
            time_s, after, self.before.pop(t, {}), self.gradients.pop(t, {}),
            None if loss is None else float(loss), bytes_sent, messages,
        )  # fmt: skip


def _named(stage: Stage, buffers: bool = False) -> list[tuple[str, Tensor]]:
    """(name in the whole network, tensor): "3.weight" is of layer 3; the head is layer L."""
    numbered: list[tuple[int, nn.Module]] = list(stage.layers.items())
    if stage.head is not None:
        numbered.append((stage.depth, stage.head))
    found: list[tuple[str, Tensor]] = []
    for i, module in numbered:
        found += [(f"{i}.{name}", p) for name, p in module.named_parameters()]
        if buffers:
            found += [(f"{i}.{name}", b) for name, b in module.named_buffers()]
    return found


class Assembly:
    """A copy of the whole network, to be measured with the stages' states in it."""

    def __init__(self, network: Network, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.network: Network = copy.deepcopy(network)
        self.modules = self.network.modules()
        self.loss = loss

    @torch.no_grad()
    def consensus_sq(self, workers: Sequence[Sequence[State]]) -> float:
        """Load the average of the workers' networks, each given as its stages' states; (1/n) sum_i |x_i - xbar|^2.

        Floating-point buffers are averaged too, others are worker 0's; the distance is of parameters only.
        """
        wholes = [{name: value for state in states for name, value in state.items()} for states in workers]
        average, apart, n = {}, 0.0, len(wholes)
        parameters = dict(self.modules.named_parameters())
        for name, first in wholes[0].items():
            average[name] = first
            if first.is_floating_point():
                average[name] = functools.reduce(torch.add, [whole[name] for whole in wholes]) / n
            if name in parameters:
                mean = average[name].double()
                apart += sum(float((whole[name].double() - mean).square().sum()) for whole in wholes) / n
        self.load([average])
        return apart

    def load(self, states: Sequence[State]) -> None:
        """Put the stages' states in."""
        whole = {name: value for state in states for name, value in state.items()}
        self.modules.load_state_dict(whole, strict=False)

    def cosines(self, snapshots: Sequence[Snapshot], inputs: Tensor, labels: Tensor) -> list[float]:
        """Per layer (the head last): cosine of the program's gradient and that of the network's loss, same weights.

        NaN for a layer that has no gradient of its own.
        """
        self.load([s.before for s in snapshots])
        self.modules.train()
        self.modules.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(self.loss(self.network(inputs), labels))
        local = {name: g for s in snapshots for name, g in s.gradients.items()}
        cosines = []
        for i, layer in enumerate(self.modules):
            pairs = [
                (local[f"{i}.{name}"].flatten(), p.grad.flatten())
                for name, p in layer.named_parameters()
                if p.grad is not None and f"{i}.{name}" in local
            ]
            if not pairs:
                cosines.append(float("nan"))
                continue
            ours, true = (torch.cat(side) for side in zip(*pairs, strict=True))
            cosines.append(float(cosine_similarity(ours.double(), true.double(), dim=0)))
        return cosines

    @torch.no_grad()
    def measure(self, inputs: Tensor, labels: Tensor, chunk: int = 1000) -> tuple[float, float]:
        """Mean loss and accuracy over the samples, in evaluation mode."""
        self.modules.eval()
        losses, correct, count = 0.0, 0, 0
        for a in range(0, len(labels), chunk):
            logits, y = self.network(inputs[a : a + chunk]), labels[a : a + chunk]
            losses += float(self.loss(logits, y)) * len(y)
            predicted = logits.flatten(0, -2).argmax(-1)
            correct += int((predicted == y.flatten()).sum())
            count += y.numel()
        return losses / len(labels), correct / count


def row_of(snapshots: Sequence[Snapshot], clock: str) -> dict[str, Any]:
    """Columns that come from the snapshots themselves."""
    sent = [s.bytes_sent for s in snapshots]
    losses = [s.loss for s in snapshots if s.loss is not None]
    row: dict[str, Any] = {
        "wall_s" if clock == "measured" else "simulated_s": round(max(s.time_s for s in snapshots), 9),
        "bytes_sent_mean": sum(sent) / len(sent),
        "bytes_sent_max": max(sent),
        "messages": sum(s.messages for s in snapshots),
        "batch_loss": sum(losses) / len(losses) if losses else float("nan"),
    }
    return row
