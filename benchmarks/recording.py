"""The share of a run's time that recording and metrics take at the default interval.

Question: does measuring disturb what is measured? In one process and on 2 ranks; MNIST where the data root has it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.ranks import launch
from benchmarks.timing import Line, at_most, print_lines

RUNS = {
    "logistic regression, digits, 16 workers, 2,000 rounds": dict(
        problem={"name": "logistic-regression", "data": "digits"}, rounds=2000, workers=16
    ),
    "MLP 784-256-10, MNIST, 16 workers, 2,000 rounds": dict(
        problem={"name": "mlp", "data": "mnist"}, rounds=2000, workers=16
    ),
}


def share(name: str) -> float:
    """(all time - time in rounds) / all time of one run, on this rank."""
    from decentral.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from decentral.comm.world import find_world
    from decentral.runs.experiment import expand
    from decentral.runs.folder import RunFolder
    from decentral.runs.journal import Journal
    from decentral.runs.place import Here
    from decentral.runs.rounds.training import Training

    spec = RUNS[name]
    table = {
        "name": "recording",
        "problem": spec["problem"],
        "topology": {"name": "ring", "workers": spec["workers"]},
        "algorithm": {"name": "decentlam"},
        "train": {"lr": 0.05, "rounds": spec["rounds"], "checkpoint_every": "never"},
    }
    world = find_world()
    if world.ranks > 1:
        torch.set_num_threads(1)
    config = expand(table).runs[0].config
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(None if world.rank else RunFolder(Path(folder)))
        training = Training(config, Here(world, torch.device("cpu")), journal)
        began = time.perf_counter()
        training.run()
        total = time.perf_counter() - began
    return (total - training.wall_s) / total


def measure() -> list[Line]:
    lines = []
    for name in RUNS:
        if "MNIST" in name and not os.environ.get("DECENTRAL_DATA"):
            continue
        for ranks in (1, 2):
            found = json.loads(launch(ranks, "-m", "benchmarks.recording", name))
            lines.append(
                at_most(f"{name}, {ranks} rank(s): recording / run", found, 1.0, 0.05, "{:.3f}".format)
            )
    return lines


if __name__ == "__main__":
    if len(sys.argv) > 1:
        result = share(sys.argv[1])
        from decentral.comm.world import find_world

        if find_world().rank == 0:
            print(json.dumps(result))
    else:
        print_lines("recording", measure())
