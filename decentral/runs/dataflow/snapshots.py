"""What is measured of workers each time they are drained."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from decentral.dataflow.control import updates_of
from decentral.dataflow.ends import Loss, Score
from decentral.dataflow.transforms import Transform
from decentral.dataflow.worker import Worker
from decentral.runs.gathering import copied
from decentral.runtime.driver import Driver, Sent
from decentral.runtime.staleness import histogram, staleness_columns
from decentral.runtime.trace import Span, Trace

_SPANS = 50_000  # kept of each worker, the latest


@dataclass
class Snapshot:
    """A worker after a round.

    ``time_s``: on the driver's clock. ``parameters``: of its nodes, by name. ``score``: of the round's instances while
    they were learned from; the others are sums since the start.
    """

    time_s: float
    parameters: dict[str, list[Tensor]]
    score: Score
    staleness: Counter[int]
    updates: int
    busy_s: float
    sent: Sent

    @staticmethod
    def total(parts: Sequence[Snapshot]) -> Score:
        """The score of all workers."""
        return functools.reduce(Score.plus, (s.score for s in parts))


class Recorder:
    """Takes the snapshots of one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.spans: list[Span] = []
        self.busy_s = 0.0

    def snapshot(self, driver: Driver) -> Snapshot:
        """Of the worker that has just been drained."""
        self.keep_spans(driver.trace)
        score = Score()
        for node in self.worker.nodes.values():
            if isinstance(node, Loss):
                score, node.score = score.plus(node.score), Score()
        updates = updates_of(self.worker)
        lags: Counter[int] = Counter()
        for one in updates:
            lags += one.staleness
        parameters = {
            name: [copied(p) for p in node.module.parameters()]
            for name, node in self.worker.nodes.items()
            if isinstance(node, Transform) and any(True for _ in node.module.parameters())
        }
        return Snapshot(
            driver.now, parameters, score, lags, sum(one.count for one in updates), self.busy_s,
            driver.sent_by(self.worker.number),
        )  # fmt: skip

    def keep_spans(self, trace: Trace) -> None:
        """Count this worker's spans, and take them out of the trace: a long run has too many to keep."""
        mine = [span for span in trace.spans if span.stage == self.worker.number]
        self.busy_s += sum(span.end_s - span.start_s for span in mine if span.kind != "wait")
        self.spans = (self.spans + mine)[-_SPANS:]
        trace.spans = [span for span in trace.spans if span.stage != self.worker.number]

    def staleness(self) -> dict[str, dict[int, int]]:
        """Node -> updates between a message's forward and backward pass -> messages."""
        nodes = (node for node in self.worker.nodes.values() if isinstance(node, Transform))
        return {node.name: dict(sorted(node.updates.staleness.items())) for node in nodes if node.updates}


def columns_of(parts: Sequence[Snapshot]) -> dict[str, Any]:
    """Columns that only networks of nodes have."""
    lags = histogram(s.staleness for s in parts)
    return {
        "occupancy": sum(s.busy_s for s in parts) / (len(parts) * max(s.time_s for s in parts)),
        "updates": sum(s.updates for s in parts),
        **(staleness_columns(lags) if lags else {}),
    }
