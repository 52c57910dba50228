"""What each stage did when: the record of a run, from either driver, and its Chrome trace file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from decentral.runtime.requests import Channel

MOST = 100_000
"""Spans that a trace of a long run keeps, the latest: what a trace file holds."""


class Span(NamedTuple):
    """Stage ``stage`` did ``kind`` ("forward", ..., "wait") from ``start_s`` to ``end_s``."""

    stage: int
    kind: str
    start_s: float
    end_s: float
    tag: Any = None


@dataclass
class Trace:
    """Spans in the order they ended, of a long run the latest, and what went over each channel.

    ``makespan_s``: when the last stage ended. ``clock``: "simulated" or "measured". ``dropped``: spans no longer kept,
    beyond ``most``.
    """

    clock: str
    spans: list[Span] = field(default_factory=list)
    channel_bytes: Counter[Channel] = field(default_factory=Counter)
    channel_messages: Counter[Channel] = field(default_factory=Counter)
    makespan_s: float = 0.0
    lane: str = "stage"  # what has a number
    dropped: int = 0
    most: int = MOST

    def add(self, span: Span) -> None:
        """One more span; now and then the oldest are dropped."""
        self.spans.append(span)
        if len(self.spans) > self.most + self.most // 4:
            self.dropped += len(self.spans) - self.most
            del self.spans[: -self.most]

    def busy_s(self, stage: int) -> float:
        """Seconds that the stage worked."""
        return sum(s.end_s - s.start_s for s in self.spans if s.stage == stage and s.kind != "wait")

    def idle_fraction(self) -> float:
        """1 - work / (stages x makespan): the bubble."""
        stages = {s.stage for s in self.spans}
        total = len(stages) * self.makespan_s
        return 1 - sum(map(self.busy_s, stages)) / total if total else 0.0

    def boundaries(self) -> list[dict[str, Any]]:
        """A row for each channel: its ends, its name, bytes and messages."""
        return [
            {**channel._asdict(), "bytes": size, "messages": self.channel_messages[channel]}
            for channel, size in sorted(self.channel_bytes.items(), key=lambda item: item[0][:3])
        ]

    def chrome(self, most: int = MOST) -> str:
        """The text of a trace-event file, which chrome://tracing and Perfetto open; one row a stage.

        Of more than ``most`` spans it holds those in the middle, or the latest where older ones were dropped.
        """
        more = max(0, len(self.spans) - most)
        skipped = more if self.dropped else more // 2
        spans = self.spans[skipped : skipped + most]
        events: list[dict[str, Any]] = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": k, "args": {"name": f"{self.lane} {k}"}}
            for k in sorted({s.stage for s in spans})
        ]
        events += [
            {
                "name": f"{s.kind} {s.tag}" if s.tag is not None else s.kind,
                "cat": s.kind, "ph": "X", "pid": 0, "tid": s.stage,
                "ts": s.start_s * 1e6, "dur": (s.end_s - s.start_s) * 1e6,
            }
            for s in spans
        ]  # fmt: skip
        facts = {"clock": self.clock, "spans": len(spans), "spans_of_the_run": len(self.spans) + self.dropped}
        return json.dumps({"traceEvents": events, "otherData": facts})


def payload_bytes(value: Any) -> int:
    """Bytes of the tensors in a message; what else it holds is not counted."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, (list, tuple)):  # a union type would be ten times as slow
        return sum(map(payload_bytes, value))
    return 0


def captured(value: Any) -> Any:
    """The value as it travels: tensors are copied and leave their graph behind."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, list):
        return [captured(part) for part in value]
    return tuple(captured(part) for part in value) if isinstance(value, tuple) else value
