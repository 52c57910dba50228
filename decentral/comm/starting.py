"""While ranks meet each waits for all, for ever if one runs another command and has ended already.

Ranks are known by what their launcher told them, and Linux shows in /proc. Nothing is concluded from what is not seen:
another user's processes, ranks of other hosts, or those of other containers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from decentral.comm.launch import (
    RANKS,
    TORCH,
    by_torchrun,
    launched_local_ranks,
    launched_rank,
    launched_ranks,
)

_PATIENCE_S, _LOOK_S = 3.0, 0.5  # before the first look, and between looks
_LOOKS = 4  # in a row that must not find a rank
_JOBS = (
    "PMIX_NAMESPACE", "PMI_JOBID", "PALS_APID", "FLUX_JOB_ID", "ALPS_APP_ID", "SLURM_JOB_ID", "SLURM_STEP_ID",
    "TORCHELASTIC_RUN_ID", "MASTER_PORT",
)  # fmt: skip
_PROCESSES = Path("/proc")


@contextmanager
def starting(moment: str = "MPI began") -> Iterator[None]:
    """Around the start of MPI: ends this process, with a line, if another rank of this host has ended meanwhile.

    ``moment``: what it has missed.
    """
    if launched_ranks() == 1 or launched_local_ranks() == 1 or not (_PROCESSES / "self/environ").exists():
        yield
        return
    parent = os.getpid()
    watcher = os.fork()  # a thread would not run, for MPI is started with Python's lock held
    if watcher == 0:
        try:
            _look(parent, moment)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)


def _look(parent: int, moment: str) -> None:
    """Look for the other ranks until one is missing, or the parent has ended; then end the parent."""
    keys = (TORCH[1],) if by_torchrun() else (*RANKS, "SLURM_PROCID")
    key = next((name for name in keys if name in os.environ), "")
    time.sleep(_PATIENCE_S)
    looks, found = 0, set[int]()
    while looks < _LOOKS:
        time.sleep(_LOOK_S)
        found = set(_ranks_here(key))
        if os.getppid() != parent or launched_rank() not in found or not _launcher_is_seen(key):
            return
        looks = looks + 1 if len(found) < launched_local_ranks() else 0
    time.sleep(0 if launched_rank() == min(found) else 1)  # one rank speaks for all
    absent = set(range(launched_ranks())) - found  # which may be ranks of other hosts
    who = f"rank {min(absent)}" if launched_local_ranks() == launched_ranks() else "a rank of this host"
    said = f"has ended before {moment}: it ran another command, or could not start; start all ranks alike"
    os.write(2, f"decentral: {who} {said}\n".encode())
    os.kill(parent, signal.SIGKILL)  # it would not hear another signal


def _ranks_here(key: str) -> Iterator[int]:
    """The ranks of this job that have a living process on this host; ``key`` tells them their number."""
    job = {name: os.environ[name] for name in _JOBS if name in os.environ}
    for number in filter(str.isdigit, os.listdir(_PROCESSES)):
        told = _environment(int(number))
        if told.get(key, "").isdigit() and all(told.get(name) == value for name, value in job.items()):
            yield int(told[key])


def _launcher_is_seen(key: str) -> bool:
    """Whether who started this rank is seen, and so its siblings: in a container of its own it would not be."""
    pid = os.getpid()
    while pid and key in _environment(pid):
        stat = (_PROCESSES / str(pid) / "stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return pid > 0


def _environment(pid: int) -> dict[str, str]:
    """What that process was started with; empty if it is gone, or not to be seen."""
    try:
        text = (_PROCESSES / str(pid) / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
