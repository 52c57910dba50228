"""The round update beside a process that spins on every core, against the same on an idle machine.

Question: does a busy machine cost a run its share, or many times that? Both ratios are against streaming the arrays,
which loses its share of the cores too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

import topologies
from benchmarks.round_update import by_round, streaming
from benchmarks.timing import Line, at_most, interleaved, print_lines
from decentral.algorithms import DecentLaM, DmSGD
from decentral.allocator import keep_freed_memory
from decentral.comm import LocalComm

SIZES = [(64, 200_000), (1024, 50_000), (64, 4_000)]


@contextmanager
def neighbours() -> Iterator[None]:
    """A process that spins for each core that this one may use."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def measure() -> list[Line]:
    keep_freed_memory()
    contenders = {}
    for n, d in SIZES:
        comm, g = LocalComm(topologies.mixing_matrix(topologies.ring(n))), torch.randn(n, d)
        contenders[f"floor {n} {d}"] = streaming(torch.randn(n, d), torch.randn(n, d), g)
        for method in (DmSGD(0.9), DecentLaM(0.9)):
            contenders[f"{type(method).__name__} {n} {d}"] = by_round(method, comm, g)
    idle = interleaved(contenders, repeats=15)
    with neighbours():
        busy = interleaved(contenders, repeats=15)
    lines = []
    for name in contenders:
        method, n, d = name.split()
        if method != "floor":
            floor = f"floor {n} {d}"
            what = (
                f"round, {method}, ring, n = {int(n):,}, d = {int(d):,}, {torch.get_num_threads()} threads: "
            )
            what += "ratio to streaming beside spinning processes / idle"
            ratios = [times[name] / times[floor] for times in (busy, idle)]
            lines.append(at_most(what, *ratios, target=2.0, show="{:.2f}".format))
    return lines


if __name__ == "__main__":
    print_lines("busy", measure())
