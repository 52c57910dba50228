"""Run each kind for a long time in one process, and tell how its memory grows.

``python tests/soak.py --rounds 200000`` prints the growth of the resident memory a 1,000 rounds, from a quarter of the
run on, when what is bounded has reached its bound. A pass of a network of nodes, and a step of a slower kind, count as
more rounds than one: the second column says how many were made.
"""

import argparse
import os
import tempfile
from pathlib import Path

import tomli_w
import torch
from command import experiment

from decentral.comm.world import LocalWorld
from decentral.runs.experiment import expand
from decentral.runs.folder import RunFolder
from decentral.runs.journal import Journal
from decentral.runs.kinds import training_of
from decentral.runs.place import Here

_DEEP = {"name": "mlp", "hidden": [8, 8]}
_NETWORK = {"latency_s": 1e-3}
KINDS = {
    "rounds": (1, experiment(problem={"noise": 0.1}, network=_NETWORK)),
    "compression": (4, experiment(algorithm={"name": "choco"}, compression={"name": "top-k", "fraction": 0.5})),
    "faults": (4, experiment(faults={"loss": 0.1, "late": 0.2})),
    "asynchronous": (20, experiment(algorithm={"name": "ad-psgd"}, network=_NETWORK)),
    "stages": (10, {
        "name": "x", "problem": _DEEP, "program": {"name": "backprop"}, "stages": {"count": 2},
        "train": {"lr": 0.01, "rounds": 1, "batch_size": 2},
    }),
    "nodes": (100, {
        "name": "x", "problem": {"name": "list-reduction", "train": 10, "validation": 5},
        "dataflow": {"workers": 2}, "train": {"lr": 0.01, "rounds": 1},
    }),
}  # fmt: skip
"""Name -> (how many times fewer rounds are made, table)."""


def resident_mb():
    """Memory of this process that is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(name, rounds):
    """(rounds made, MB at the end, MB a 1,000 rounds over the last three quarters)."""
    fewer, table = KINDS[name]
    rounds = max(100, rounds // fewer)
    table = {**table, "train": {**table["train"], "rounds": rounds, "record_every": max(1, rounds // 20)}}
    (planned,) = expand(table).runs
    seen = []

    def moved(t, _):
        if not seen or t >= seen[-1][0] + rounds / 100:
            seen.append((t, resident_mb()))

    with tempfile.TemporaryDirectory(prefix="soak") as home:
        folder = RunFolder(Path(home) / planned.id)
        folder.path.mkdir()
        (folder.path / "config.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
        here = Here(LocalWorld(), torch.device("cpu"))
        training_of(planned.config).execute(planned.config, here, Journal(folder, moved), None)
    late = [(t, mb) for t, mb in seen if t >= rounds / 4]
    (first, before), (last, after) = late[0], late[-1]
    return rounds, after, (after - before) / (last - first) * 1000


def main():
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200_000)
    parser.add_argument("--only", nargs="*", choices=KINDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':14}{'rounds':>10}{'MB':>10}{'MB a 1,000 rounds':>20}")
    for name in given.only or KINDS:
        made, whole_mb, grows = growth(name, given.rounds)
        print(f"{name:14}{made:10,}{whole_mb:10.1f}{grows:20.4f}", flush=True)


if __name__ == "__main__":
    main()
