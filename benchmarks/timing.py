"""Timing on a noisy machine: alternate the contenders, take each one's median, report ratios."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Line:
    """One measured ratio and what it should be."""

    what: str
    ours: str
    floor: str
    ratio: float
    target: str
    met: bool


def interleaved(
    contenders: dict[str, Callable[[], object]], repeats: int = 9, warm: int = 2
) -> dict[str, float]:
    """Median seconds of each contender; they take turns, so that a busy minute hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm + repeats):
        for name, work in contenders.items():
            began = time.perf_counter()
            work()
            if turn >= warm:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def ms(seconds: float) -> str:
    """Seconds as text in milliseconds."""
    return f"{seconds * 1e3:.2f} ms"


def at_most(what: str, ours: float, floor: float, target: float, show: Callable[[float], str] = ms) -> Line:
    """A line that is met when ours / floor <= target."""
    return Line(what, show(ours), show(floor), ours / floor, f"<= {target}", ours / floor <= target)


def at_least(what: str, ours: float, floor: float, target: float, show: Callable[[float], str] = ms) -> Line:
    """A line that is met when floor / ours >= target: ours is so many times faster."""
    return Line(what, show(ours), show(floor), floor / ours, f">= {target}", floor / ours >= target)


def print_lines(title: str, lines: list[Line]) -> None:
    """The table, with the load of the machine when it was printed."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    table = Table(title=f"{title}   (load average {load}, {os.cpu_count()} cores)", title_justify="left")
    for column in ("what", "ours", "against", "ratio", "target", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for line in lines:
        verdict = "met" if line.met else "MISSED"
        table.add_row(line.what, line.ours, line.floor, f"{line.ratio:.2f}", line.target, verdict)
    Console(width=110).print(table)
