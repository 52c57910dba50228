"""Asynchronous gossip over MPI: 1,000 rounds on three graphs, three times over.

Question: does every run end, with more ranks than cores, and with every message answered?
"""

from __future__ import annotations

import json
import time
from typing import Any

from benchmarks.ranks import launch, main
from benchmarks.timing import Line

RANKS, ROUNDS, TIMES = 4, 1_000, 3
METHODS, GRAPHS = ("ad-psgd", "async-push-sum", "async-local-sgd"), ("ring", "star", "complete")


def end(method: str) -> dict[str, Any]:
    """On all ranks: graph -> for each time over (seconds, steps, messages asked, answered), one worker a rank."""
    import torch

    from decentral.comm.mpi_world import MPIWorld
    from decentral.runs.asynchronous.training import Training
    from decentral.runs.experiment import expand
    from decentral.runs.journal import Journal
    from decentral.runs.place import Here

    torch.set_num_threads(1)
    world, found = MPIWorld(), {}
    for graph in GRAPHS:
        table = {
            "seeds": list(range(TIMES)), "problem": {"name": "quadratic"},
            "topology": {"name": graph, "workers": world.ranks}, "algorithm": {"name": method},
            "train": {"lr": 0.01, "rounds": ROUNDS},
        }  # fmt: skip
        found[graph] = []
        for planned in expand(table).runs:
            training = Training(planned.config, Here(world, torch.device("cpu")), Journal())
            began = time.perf_counter()
            training.run()
            control = training.controller
            took = time.perf_counter() - began
            found[graph].append((took, control.steps, control.asked, control.answered))
    return found


def measure() -> list[Line]:
    lines = []
    for method in METHODS:
        found = json.loads(launch(RANKS, "-m", "benchmarks.asynchronous", "end", method).splitlines()[-1])
        for graph, times in found.items():
            _, steps, asked, answered = (sum(column) for column in zip(*times, strict=True))
            seconds = ", ".join(f"{took:.0f} s" for took, *_ in times)
            complete = answered == asked > 0 and steps >= TIMES * ROUNDS * RANKS
            what = f"{method}, {graph}, {RANKS} ranks, {TIMES} x {ROUNDS:,} rounds ended ({seconds}): answered, asked"
            lines.append(Line(what, f"{answered:,}", f"{asked:,}", answered / max(1, asked), "= 1", complete))
    return lines


if __name__ == "__main__":
    main("asynchronous", measure, end)
