"""On the ranks of a lab: training of one kind after the other, each with its measured and its simulated seconds.

What a worker computes is measured first, on all ranks at once, in rounds without messages; links are as they are told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decentral.comm.world import World

HERE = Path(__file__).parent
WORKERS, SECONDS = 4, 2.5
"""Of a cell, roughly, if messages take all of it."""
ALONE = 200
"""Rounds without messages."""
SIZES = {"10 k": [133], "100 k": [1333], "800 k": [800, 880]}
"""Parameters of the models, with their hidden layers."""
ALL_REDUCE, RING = "algorithm.name='pmsgd'", "algorithm.name='dsgd'"
ONE_PEER, EXPONENTIAL = "topology.name='one-peer-exponential'", "topology.name='exponential'"
CELLS: dict[str, tuple[float, int, list[str]]] = {
    "all-reduce": (1.5, 1, [ALL_REDUCE]),
    "ring": (2, 1, [RING]),
    "one-peer": (1, 1, [RING, ONE_PEER]),
    "exponential": (2, 1, [RING, EXPONENTIAL]),
    **{
        f"DiLoCo, H = {h}": (1.5, h, ["algorithm.name='diloco'", f"algorithm.every={h}"])
        for h in (1, 10, 100)
    },
}
"""Vectors that a worker sends in an exchange, rounds from one to the next, and what the file is told."""
ON_HOSTS = ("all-reduce", "ring")


def cells(rate: str, hosts: str = "") -> Iterator[dict[str, Any]]:
    """``rate`` in Mb/s, or "inf"; ``hosts``: a cluster file, of hosts with several workers."""
    bytes_s = 1e6 / 8 * float(rate)
    link = f"network.cluster={hosts!r}" if hosts else f"network.bandwidth_bytes_s={bytes_s!r}"
    for size, hidden in SIZES.items():
        model = f"problem.hidden={hidden}"
        alone_s: dict[str, float] = {}
        for name, (vectors, every, told) in CELLS.items():
            if hosts and name not in ON_HOSTS:
                continue
            method = "diloco" if every > 1 or "DiLoCo" in name else "local-sgd"
            if method not in alone_s:
                row = trained([f"algorithm.name={method!r}", "algorithm.every=100000", model], ALONE)
                alone_s[method] = row["wall_s"] / ALONE
            exchange_s = vectors * 4 * parameters(hidden) / min(bytes_s, 1e9 / 8)
            most = max(2, math.ceil(400 / every))
            rounds = every * min(most, max(2, math.ceil(SECONDS / (exchange_s + every * alone_s[method]))))
            compute_told = [f"network.compute.compute_s={alone_s[method]!r}"]
            if hosts and name == "all-reduce":
                compute_told.append("network.all_reduce='direct'")
            row = trained([*told, model, link, *compute_told], rounds)
            if hosts:
                name += ", 2 hosts of 2"
            yield {"cell": name, "size": size, "rounds": rounds, "compute_s": rounds * alone_s[method], **row}


STAGED = {"10 kB": (64, 40), "100 kB": (256, 100), "800 kB": (1024, 200)}
"""What a stage hands on in a round, with the samples of a batch and the width of the layers."""
PROGRAMS = {
    "greedy stages": (1.0, ["program.name='local'", "program.blocks='greedy'"]),
    "1f1b": (2.5, ["program.name='1f1b'", "program.micro_batches=4"]),
    "GPipe": (2.5, ["program.name='gpipe'", "program.micro_batches=4"]),
}
"""How often that leaves one after the other, roughly, and what the file is told."""


def stages(rate: str) -> Iterator[dict[str, Any]]:
    """Stages at that rate; the clock goes by what rank 0 measures of each pass."""
    bytes_s = 1e6 / 8 * float(rate)
    for size, (batch, width) in STAGED.items():
        for name, (messages, told) in PROGRAMS.items():
            told = [
                *told, f"problem.hidden={[width] * 7}", f"train.batch_size={batch}",
                f"network.bandwidth_bytes_s={bytes_s!r}",
            ]  # fmt: skip
            rounds = min(
                200, max(3, math.ceil(SECONDS / (messages * 4 * batch * width / min(bytes_s, 1e9 / 8))))
            )
            row = trained(told, rounds, "lab_stages.toml")
            row["simulated_s"] = trained(told, rounds, "lab_stages.toml", alone=True)["simulated_s"]
            yield {"cell": name, "size": size, "rounds": rounds, **row}


def parameters(hidden: list[int]) -> int:
    """Of the perceptron with 64 inputs and 10 classes."""
    widths = [64, *hidden, 10]
    return sum((a + 1) * b for a, b in pairwise(widths))


def trained(told: list[str], rounds: int, file: str = "lab.toml", alone: bool = False) -> dict[str, float]:
    """Seconds of a run, measured and on the simulated clock; ``alone``: in one process, while the others wait."""
    from decentral.comm.launch import use_threads
    from decentral.comm.world import LocalWorld, find_world
    from decentral.runs.experiment import load
    from decentral.runs.journal import Journal
    from decentral.runs.kinds import training_of
    from decentral.runs.place import Here, device_of

    use_threads()
    everyone, device = find_world(), device_of("cpu", 0)
    config = (
        load(HERE / file, [*told, f"train.rounds={rounds}", f"train.record_every={rounds}"]).runs[0].config
    )

    def seconds(world: World) -> dict[str, float]:
        journal = Journal()
        training_of(config).execute(config, Here(world, device), journal, None)
        return {key: float(journal.row.get(key) or 0.0) for key in ("wall_s", "simulated_s")}

    everyone.agree(None)  # all begin together
    return (
        everyone.from_root(lambda: seconds(LocalWorld())) if alone else everyone.agree(seconds(everyone))[0]
    )
