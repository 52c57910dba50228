"""The machine: its cores, the threads that a process takes, freed memory, Slurm, and whether it can be a lab."""

from __future__ import annotations

import json
import os
import shutil

from decentral.allocator import keep_freed_memory
from decentral.comm.launch import launched_ranks
from decentral.commands.doctor.asking import Answer
from decentral.commands.doctor.finding import Finding

LAB = """
import json
from decentral.network.lab.offers import offers
found = offers()
print(json.dumps([found.missing, found.kernel]))
"""


def find_cores() -> Finding:
    """The cores that this process may use."""
    allowed, present = _allowed_cores(), os.cpu_count() or 1
    ranks = launched_ranks()
    text = f"{allowed} of {present} usable by this process" + (f", rank 0 of {ranks}" if ranks > 1 else "")
    return Finding("cores", "ok", text)


def find_threads() -> Finding:
    """Whether OMP_NUM_THREADS suits one process, or the ranks that there are."""
    topic, wanted = "threads", os.environ.get("OMP_NUM_THREADS", "")
    cores, ranks = _allowed_cores(), launched_ranks()
    text = f"OMP_NUM_THREADS={wanted}" if wanted else "OMP_NUM_THREADS is not set: a process takes all cores"
    if ranks > 1 and wanted != "1":
        return Finding(topic, "note", text, "use ./mpi_launch.sh, or export OMP_NUM_THREADS=1")
    if ranks == 1 and wanted.isdigit() and int(wanted) < cores:
        remedy = "unset it for runs in one process; ./mpi_launch.sh sets it for ranks"
        return Finding(topic, "note", f"{text}: one process leaves cores idle", remedy)
    if wanted.isdigit() and int(wanted) > cores:
        return Finding(topic, "note", f"{text}, more than {cores} cores", "unset OMP_NUM_THREADS")
    return Finding(topic, "ok", text)


def find_allocator() -> Finding:
    """Whether freed memory is kept."""
    if keep_freed_memory():
        return Finding("allocator", "ok", "glibc keeps freed memory (mallopt)")
    remedy = "use a Linux with glibc for speed; results are the same"
    return Finding("allocator", "note", "mallopt is not taken: page faults slow every round", remedy)


def find_slurm() -> Finding:
    """Whether this is an allocation of Slurm's."""
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        nodes, tasks = (os.environ.get(f"SLURM_{key}", "?") for key in ("JOB_NUM_NODES", "NTASKS"))
        return Finding("Slurm", "ok", f"job {job}: {nodes} nodes, {tasks} tasks")
    if shutil.which("srun"):
        remedy = "salloc or sbatch first, then ./mpi_launch.sh"
        return Finding("Slurm", "note", "present, but this is no allocation: ranks stay on this node", remedy)
    return Finding("Slurm", "ok", "none; ranks are started by mpirun")


def find_lab(answer: Answer, launcher: bool) -> Finding:
    """Whether `decentral lab` can make nodes here, by the answer to LAB."""
    topic = "lab"
    if answer.code != 0:
        return Finding(topic, "note", f"none: {answer.complaint}", "nothing, unless you want `decentral lab`")
    missing, lacks = json.loads(answer.out)
    if missing:
        text, _, remedy = missing.partition("; ")
        return Finding(topic, "note", f"none: {text}", remedy)
    if not launcher:
        return Finding(
            topic, "note", "nodes can be made, but no mpirun starts ranks on them", "install an MPI"
        )
    text = "nodes can be made here, with " + (
        "rates, not latencies" if "netem" in lacks else "rates and latencies"
    )
    others = [part for part in lacks if part != "netem"]
    return Finding(topic, "ok", text + (f"; the kernel has no {', '.join(others)}" if others else ""))


def _allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
