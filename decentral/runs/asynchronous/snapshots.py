"""What is measured of asynchronous workers: a copy of each at the moment that the controller asks.

A worker takes its copy when it serves next; its model changes only then, so the copy is what it was when it was asked.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decentral.runs.asynchronous.worker import Worker


@dataclass
class Snapshot:
    """Worker ``worker`` at one moment: its ``model`` (1, d) and buffers (1, ...), and counts since the start."""

    worker: int
    model: Tensor
    buffers: dict[str, Tensor]
    steps: int
    bytes_sent: dict[int, int]
    messages: int
    staleness: dict[int, int]

    @classmethod
    def of(cls, worker: Worker) -> Snapshot:
        """Copies of what changes."""
        buffers = {name: value.clone() for name, value in worker.objective.buffers.items()}
        return cls(
            worker.near.worker, worker.side.model().clone(), buffers, worker.t, dict(worker.sent_bytes),
            worker.messages, dict(worker.side.staleness),
        )  # fmt: skip


def models_of(parts: Sequence[Snapshot], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """x (n, d) and the buffers (n, ...) of all workers, ``parts`` in their order."""
    x = torch.cat([s.model.to(device) for s in parts])
    names = parts[0].buffers
    return x, {name: torch.cat([s.buffers[name].to(device) for s in parts]) for name in names}


def traffic(parts: Sequence[Snapshot], host: Sequence[int]) -> dict[str, float]:
    """Columns of messages between workers; ``host``: the rank of each worker."""
    sent = [sum(s.bytes_sent.values()) for s in parts]
    between = [size for s in parts for target, size in s.bytes_sent.items() if host[target] != host[s.worker]]
    return {
        "bytes_sent_mean": sum(sent) / len(sent),
        "bytes_sent_max": float(max(sent)),
        "messages": sum(s.messages for s in parts),
        "mpi_bytes_sent": sum(between),
    }


def csv_of(counts: Mapping[int, int]) -> str:
    """staleness.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("staleness", "messages"))
    writer.writerows(counts.items())
    return text.getvalue()
