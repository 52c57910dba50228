"""A command in a process of its own that need not import: forked of this one, with limits of memory and time."""

import importlib
import os
import pkgutil
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 20.0
OVER_A_RUN = 1 << 30
"""Bytes of memory that an answer may take beyond a normal run."""
A_RUN = 1 << 30
"""Address space that a small run takes beyond the imports: threads' stacks and arenas for the most part."""


@dataclass(frozen=True)
class Answer:
    """How a command ended: ``code`` as Python counts, negative for a signal; None if it had to be ended."""

    code: int | None
    out: str
    err: str
    seconds: float


def import_everything():
    """All that a command loads late, so that no case pays for it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    names = ["matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "sklearn.datasets"]
    for package in map(importlib.import_module, ("topologies", "decentral")):
        found = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        names += [
            m.name for m in found if not m.name.endswith("__main__") and "mpi" not in m.name.split(".")[-1]
        ]
    for name in names:
        importlib.import_module(name)


def ask(arguments, folder, limit_s=LIMIT_S, drawn=True):
    """``decentral arguments``, standing in ``folder``; unless ``drawn``, runs end without table and figures."""
    began = time.monotonic()
    said = [Path(folder) / ".out", Path(folder) / ".err"]
    for path in said:
        path.write_bytes(b"")
    child = os.fork()
    if child == 0:
        _be(arguments, folder, said, drawn)
    ended = os.pidfd_open(child)
    try:
        in_time = bool(select.select([ended], [], [], limit_s)[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    finally:
        os.close(ended)
    out, err = (path.read_text(encoding="utf-8", errors="replace") for path in said)
    for path in said:
        path.unlink()
    code = os.waitstatus_to_exitcode(status) if in_time else None
    return Answer(code, out, err, time.monotonic() - began)


def _be(arguments, folder, said, drawn):
    """The command itself; it never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        for number, path in enumerate(said, 1):
            file = os.open(path, os.O_WRONLY)
            os.dup2(file, number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        most = _address_space() + A_RUN + OVER_A_RUN
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.resetwarnings()  # as a user's Python has them, and not as a test has
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        sys.argv = ["decentral", *arguments]
        from decentral.cli import main
        from decentral.runs import run

        if not drawn:
            run._show = lambda folder: None
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _address_space():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
