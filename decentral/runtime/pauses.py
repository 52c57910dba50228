"""Time in which all ranks measured, cut out of their traces."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from decentral.runtime.trace import Trace

Interval = tuple[float, float]
"""(begin, end) in seconds; in a list, ascending and apart."""


def common(everyone: Sequence[Sequence[Interval]]) -> list[Interval]:
    """The time that is in an interval of every one of the lists. Cost: one pass over each list."""
    shared, *others = everyone
    for other in others:
        shared = _both(shared, other)
    return list(shared)


def cut_out(trace: Trace, pauses: Sequence[Interval]) -> None:
    """Take the pauses out of the trace: what came after them moves ahead by as much."""
    begins = [begin for begin, _ in pauses]
    lost = [0.0, *accumulate(end - begin for begin, end in pauses)]  # in the pauses before the i-th

    def moved(time_s: float) -> float:
        i = bisect_right(begins, time_s)  # pauses that have begun
        inside = max(0.0, pauses[i - 1][1] - time_s) if i else 0.0
        return time_s - (lost[i] - inside)

    trace.spans = [s._replace(start_s=moved(s.start_s), end_s=moved(s.end_s)) for s in trace.spans]
    trace.makespan_s = moved(trace.makespan_s)


def _both(one: Sequence[Interval], other: Sequence[Interval]) -> list[Interval]:
    found, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        begin, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if begin < end:
            found.append((begin, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return found
