"""What is measured of asynchronous workers: a copy of each at the moment that the controller asks.

A worker takes its copy when it serves next; its model changes only then, so the copy is what it was when it was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decentral.runs.asynchronous.worker import Worker
from decentral.runs.gathering import copied
from decentral.runtime.driver import Sent


@dataclass
class Snapshot:
    """A worker at one moment: its ``model`` (1, d) and buffers (1, ...), and counts since the start."""

    model: Tensor
    buffers: dict[str, Tensor]
    steps: int
    sent: Sent
    staleness: dict[int, int]

    @classmethod
    def of(cls, worker: Worker, sent: Sent) -> Snapshot:
        """Copies of what changes."""
        buffers = {name: copied(value) for name, value in worker.objective.buffers.items()}
        return cls(copied(worker.side.model()), buffers, worker.t, sent, dict(worker.side.staleness))


def models_of(parts: Sequence[Snapshot], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """x (n, d) and the buffers (n, ...) of all workers, ``parts`` in their order."""
    x = torch.cat([s.model.to(device) for s in parts])
    names = parts[0].buffers
    return x, {name: torch.cat([s.buffers[name].to(device) for s in parts]) for name in names}
