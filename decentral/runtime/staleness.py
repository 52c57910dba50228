"""Histograms of how old something was when it was used: staleness -> how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


def histogram(parts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Several as one, ascending."""
    whole: Counter[int] = Counter()
    for part in parts:
        whole.update(part)
    return dict(sorted(whole.items()))


def staleness_columns(counts: Mapping[int, int]) -> dict[str, float]:
    """Mean and largest; NaN of an empty histogram."""
    if not counts:
        return {"staleness_mean": float("nan"), "staleness_max": float("nan")}
    return {
        "staleness_mean": sum(lag * many for lag, many in counts.items()) / sum(counts.values()),
        "staleness_max": max(counts),
    }
