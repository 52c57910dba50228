"""``decentral doctor``: look at everything, and print what was found.

MPI and torch are tried side by side. Costs about as long as importing torch on two ranks.
"""

from __future__ import annotations

import json as json_text
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from decentral.comm.launch import launched_rank
from decentral.commands.doctor import devices, machine, mpi
from decentral.commands.doctor.asking import ask
from decentral.commands.doctor.data_sets import find_data
from decentral.commands.doctor.finding import Finding
from decentral.commands.doctor.printing import print_lines, print_table


def report(json: bool) -> int:
    """Print the findings, on rank 0 only; 1 if something is broken, else 0."""
    if launched_rank():
        return 0
    findings = examine()
    if json:
        print(json_text.dumps([asdict(finding) for finding in findings], indent=2))
    elif sys.stdout.isatty():
        print_table(findings)
    else:
        print_lines(findings)
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def examine() -> list[Finding]:
    """Look at MPI, torch, devices, threads, data, Slurm and labs; takes seconds, changes nothing."""
    launcher = mpi.launcher_of_two()
    programs = {
        "library": [sys.executable, "-c", mpi.LIBRARY],
        "torch": [sys.executable, "-c", devices.TORCH],
        "lab": [sys.executable, "-c", machine.LAB],
    }
    if launcher:
        programs["ranks"] = [*launcher, sys.executable, "-c", mpi.RANKS]
    if launcher and Path("/dev/nvidiactl").exists():
        programs["cuda"] = [*launcher, sys.executable, "-c", devices.CUDA]
    with ThreadPoolExecutor() as pool:
        answers = dict(zip(programs, pool.map(ask, programs.values()), strict=True))
    seen = devices.parse(answers["torch"])
    return [
        mpi.find_start(),
        mpi.find_library(answers["library"]),
        mpi.find_launcher(launcher, answers.get("ranks"), answers["library"]),
        devices.find_torch(seen, answers["torch"]),
        devices.find_gpus(seen),
        devices.find_cuda_over_mpi(seen, answers.get("cuda")),
        machine.find_cores(),
        machine.find_threads(),
        machine.find_allocator(),
        find_data(),
        machine.find_slurm(),
        machine.find_lab(answers["lab"], bool(launcher)),
    ]
