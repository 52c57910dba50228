"""What is measured of workers each time they are drained."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from decentral.dataflow.control import updates_of
from decentral.dataflow.ends import Loss, Score
from decentral.dataflow.transforms import Transform
from decentral.dataflow.worker import Worker
from decentral.runtime.staleness import histogram, staleness_columns
from decentral.runtime.trace import Span, Trace

Clock = Literal["simulated", "measured"]
_SPANS = 50_000  # kept of each worker, the latest


@dataclass
class Snapshot:
    """A worker after a phase 0, 1, ...: even ones are passes to learn, odd ones evaluations.

    ``time_s``: on the driver's clock; ``wall_s``: on the machine's, since the start. The others are sums since the
    start, but ``score`` is the phase's own.
    """

    time_s: float
    wall_s: float
    score: Score
    staleness: Counter[int]
    updates: int
    busy_s: float
    bytes_sent: int
    messages: int

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
        self.began_s = time.perf_counter()

    def snapshot(self, driver: Any) -> Snapshot:
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
        return Snapshot(
            driver.now, time.perf_counter() - self.began_s, score, lags,
            sum(one.count for one in updates), self.busy_s, *driver.sent_by(self.worker.number),
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


def row_of(phases: Mapping[int, Sequence[Snapshot]], t: int, clock: Clock, instances: int) -> dict[str, Any]:
    """Columns of round t from the workers' snapshots; evaluations are in no time."""
    parts = phases[2 * t]
    lags = histogram(s.staleness for s in parts)
    row: dict[str, Any] = {"wall_s": round(_spent(phases, t, "wall_s"), 6)}
    if clock == "simulated":
        row["simulated_s"] = round(_spent(phases, t, "time_s"), 9)
    row["instances_per_s"] = (t + 1) * instances / row["wall_s"]
    row["occupancy"] = sum(s.busy_s for s in parts) / (len(parts) * max(s.time_s for s in parts))
    sent = [s.bytes_sent for s in parts]
    row |= {
        "bytes_sent_mean": sum(sent) / len(sent),
        "bytes_sent_max": max(sent),
        "messages": sum(s.messages for s in parts),
        "updates": sum(s.updates for s in parts),
    }
    if lags:
        row |= staleness_columns(lags)
    return row


def _spent(phases: Mapping[int, Sequence[Snapshot]], t: int, clock: str) -> float:
    """Seconds in the passes 0 .. t, on worker 0, which is drained last."""
    marks: list[float] = [getattr(phases[phase][0], clock) for phase in range(2 * t + 1)]
    return sum(marks[2 * i] - (marks[2 * i - 1] if i else 0.0) for i in range(t + 1))
