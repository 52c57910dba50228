"""A round of every method against one of DSGD: 1,024 workers on the one-peer exponential graph, d = 50,000.

Question: what do corrections and trackers cost beside DSGD? Of a hundred rounds twelve are timed, in turn
with twelve of DSGD: SlowMo, the slowest that averages now and then by its defaults, does so once in them, and DiLoCo
never. Gradients are there already, so that only the methods count. A method that would diverge here has the speed that
it has, over so few rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

import topologies
from benchmarks.timing import Line, at_most, print_lines
from decentral.algorithms import ALGORITHMS, DSGD
from decentral.allocator import keep_freed_memory
from decentral.comm import LocalComm
from decentral.rounds.advance import advance
from decentral.rounds.trials.stability import refuses

N, D, ROUNDS, LIMIT = 1_024, 50_000, 12, 3.0


def measure() -> list[Line]:
    keep_freed_memory()
    graph = topologies.SCHEDULES["one-peer-exponential"]
    comm, g = LocalComm(graph(N)), torch.randn(N, D)
    few = graph(16)  # what a method needs does not depend on the number of workers
    floor, lines = _rounds(DSGD(), comm, g), []
    for name, kind in ALGORITHMS.items():
        method = kind()
        refused = refuses(method, few)
        if refused is not None and math.isnan(refused[0]):
            print(f"{name} is left out: it needs {refused[1]}")
        elif name != "dsgd":
            ours, dsgd = _alternating(_rounds(method, comm, g), floor)
            lines.append(at_most(f"a round of {name} / of DSGD", ours, dsgd, LIMIT))
    return lines


def _rounds(method: Any, comm: LocalComm, g: torch.Tensor) -> Callable[[], float]:
    """The method's next round, as often as it is called: its seconds."""
    x = torch.randn_like(g)
    state, t = method.init(x, comm), 0

    def work() -> float:
        nonlocal x, state, t
        began = time.perf_counter()
        x, state = advance(method, x, state, [(slice(0, D), g)], comm, t, 1e-4)
        t += 1
        return time.perf_counter() - began

    return work


def _alternating(ours: Callable[[], float], floor: Callable[[], float]) -> tuple[float, float]:
    """Mean seconds a round of each, in turn: a median would miss the rounds that average."""
    turns = [(ours(), floor()) for _ in range(1 + ROUNDS)][1:]
    return sum(a for a, _ in turns) / ROUNDS, sum(b for _, b in turns) / ROUNDS


if __name__ == "__main__":
    print_lines("family", measure())
