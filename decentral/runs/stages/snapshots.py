"""What is measured while a program runs: every stage's state at a step, put together on rank 0 as one row.

A stage's state is copied when it has finished the step, so the stages need not meet: the row of step t is the model of
all stages' t-th updates. Over MPI the copies travel to rank 0, which measures when the last one is there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from decentral.problems.model_objective import ModelObjective
from decentral.runs.gathering import copied
from decentral.runtime.driver import Driver, Sent
from decentral.stages.layers import Network
from decentral.stages.peer_comm import ALL_REDUCE, GOSSIP
from decentral.stages.peers import PeerStage
from decentral.stages.stage import Stage

State = dict[str, Tensor]


@dataclass
class Snapshot:
    """One stage after step t: parameters and buffers; before the update of that step, parameters and gradients too.

    ``time_s``: the driver's clock. ``loss``: the training loss of the step, where this stage has it.
    ``sent``: by this stage so far.
    """

    time_s: float
    after: State
    before: State
    gradients: State
    loss: float | None
    sent: Sent


def sent_by(stage: Stage, driver: Driver) -> Sent:
    """What the stage has sent so far: to other stages of its worker, and to its peers as the method's ledger has it.

    So an all-reduce is billed as everywhere, whatever way it goes here.
    """
    whole = driver.sent_by(stage.number)
    if not isinstance(stage, PeerStage):
        return whole
    peers, ledger = driver.sent_by(stage.number, (GOSSIP, ALL_REDUCE)), stage.comm.ledger
    sent_bytes = whole.bytes - peers.bytes + float(ledger.bytes_sent[0])
    return Sent(sent_bytes, whole.messages - peers.messages + ledger.messages, whole.away_bytes)


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
            self.before[t] = {name: copied(p) for name, p in named.items()}
            self.gradients[t] = {name: copied(p.grad) for name, p in named.items() if p.grad is not None}

    def snapshot(self, t: int, driver: Driver) -> Snapshot:
        """The stage as it is after step t."""
        loss = self.stage.losses.get(t)
        after = {name: copied(value) for name, value in _named(self.stage, buffers=True)}
        return Snapshot(
            driver.now, after, self.before.pop(t, {}), self.gradients.pop(t, {}),
            None if loss is None else float(loss), sent_by(self.stage, driver),
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
    """The workers' models from their stages' states, as rounds have them; and the whole network, with its gradient."""

    def __init__(self, network: Network, objective: ModelObjective) -> None:
        self.objective = objective
        own = dict(objective.evaluation.module.named_parameters()) | dict(
            objective.evaluation.module.named_buffers()
        )
        of = {id(tensor): name for name, tensor in own.items()}
        parts = network.modules()
        tensors = [
            *parts.named_parameters(remove_duplicate=False),
            *parts.named_buffers(remove_duplicate=False),
        ]
        self.names = {name: of[id(tensor)] for name, tensor in tensors}  # of stages -> of the model
        self.network: Network = copy.deepcopy(network)
        self.modules = self.network.modules()

    def models(self, workers: Sequence[Sequence[Snapshot]]) -> Tensor:
        """x (n, d) of the workers, each given as its stages; their buffers become those of the objective."""
        objective = self.objective
        x = objective.start().expand(len(workers), -1).clone()
        for i, stages in enumerate(workers):
            row = objective.layout.views(x[i]) | {name: b[i] for name, b in objective.buffers.items()}
            for name, value in (pair for stage in stages for pair in stage.after.items()):
                if (known := self.names.get(name, "")) in row:  # what is frozen stays as it is
                    row[known].copy_(value)
        return x

    def cosines(self, snapshots: Sequence[Snapshot], inputs: Tensor, labels: Tensor) -> list[float]:
        """Per layer (the head last): cosine of the program's gradient and that of the network's loss, same weights.

        NaN for a layer that has no gradient of its own.
        """
        before = {name: value for s in snapshots for name, value in s.before.items()}
        self.modules.load_state_dict(before, strict=False)
        self.modules.train()
        self.modules.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(self.objective.loss(self.network(inputs), labels))
        local = {name: g for s in snapshots for name, g in s.gradients.items()}
        cosines = []
        for i, layer in enumerate(self.modules):
            pairs = [
                (local[f"{i}.{name}"].to(p.grad.device).flatten(), p.grad.flatten())
                for name, p in layer.named_parameters()
                if p.grad is not None and f"{i}.{name}" in local
            ]
            if not pairs:
                cosines.append(float("nan"))
                continue
            ours, true = (torch.cat(side) for side in zip(*pairs, strict=True))
            cosines.append(float(cosine_similarity(ours.double(), true.double(), dim=0)))
        return cosines
