"""The server of warm.py: imports everything, and forks a process for each client.

``python -E -P tests/warm_server.py FD``, a listening socket; it serves until its standard input is closed. A process
begins where a fresh one would be when its imports are done, and nothing of it is left for the next. Between it and the
server stands a third, which waits for its end and for its client's.
"""

import contextlib
import gc
import importlib
import marshal
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import types

_LATE = (
    "PIL.JpegImagePlugin",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "torch._dynamo",
)
_FREE = 200  # file descriptors from here on are nobody's


def import_everything():
    """This package and what it loads late; but not what starts MPI, which each process must do for itself."""
    names = list(_LATE)
    sys.modules["mpi4py"] = None
    for package in map(importlib.import_module, ("topologies", "decentral")):
        found = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        names += [module.name for module in found if not module.name.endswith("__main__")]
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    del sys.modules["mpi4py"]
    gc.collect()
    gc.freeze()  # a process that looked through all this at its end would have to copy it


def serve(listening):
    """Fork for every client. Returns only in the processes so begun, with what each was asked for."""
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        _reap(os.WNOHANG)
        if sys.stdin in ready:
            _reap(0)
            sys.exit()
        client, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            head, files, _, _ = socket.recv_fds(client, 8, 64)
            with client.makefile("rb") as stream:
                asked = marshal.loads(stream.read(int.from_bytes(head, "little")))
            process = os.fork()
            if process == 0:
                client.close()
                return Process(*asked, files)
            for file in files:
                os.close(file)
            _watch(process, client)
        client.close()


def _reap(options):
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def _watch(process, client):
    """Tell the client how the process ended; end it where the client or the tests have ended."""
    ended = os.pidfd_open(process)
    ready, _, _ = select.select([ended, client, sys.stdin], [], [])
    if ended not in ready:
        os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if client not in ready:
        client.send(code.to_bytes(8, "little", signed=True))
    os._exit(0)


class Process:
    """What a client asked for."""

    def __init__(self, arguments, environment, numbers, folder, cores, files):
        self.arguments, self.environment, self.folder, self.cores = arguments, environment, folder, cores
        self.files = dict(
            zip(numbers, files, strict=True)
        )  # its file descriptor -> the one that was received

    def prepare(self, before):
        """Be where the client is, with what it has. ``before``: the variables that were set before all imports."""
        import numpy as np

        os.setpgid(0, 0)  # but no session: the scheduler lets ranks yield only to others of their session
        os.sched_setaffinity(0, self.cores)
        for free, file in enumerate(
            self.files.values(), _FREE
        ):  # out of the way of the numbers that are wanted
            os.dup2(file, free)
            os.close(file)
        for free, number in enumerate(self.files, _FREE):
            os.dup2(free, number)
            os.close(free)
        os.chdir(self.folder)
        set_by_imports = {key: value for key, value in os.environb.items() if key not in before}
        os.environb.clear()
        os.environb.update(set_by_imports | self.environment)
        sys.stdout.reconfigure(line_buffering=os.isatty(1))
        np.random.seed()

    def run(self, installed):
        """As Python does. ``installed``: where it looks for modules last."""
        how, *rest = self.arguments
        if how == "-c":
            code, *rest = rest
            sys.argv, sys.path = ["-c", *rest], search_path(installed, "")
            sys.modules["__main__"] = module = types.ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), module.__dict__)
        elif how == "-m":
            sys.argv, sys.path = rest, search_path(installed, os.getcwd())
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            folder = os.path.dirname(os.path.realpath(how))
            sys.argv, sys.path = self.arguments, search_path(installed, folder)
            runpy.run_path(how, run_name="__main__")


def search_path(installed, *first):
    """``first``, then PYTHONPATH, then ``installed``."""
    named = os.environ.get("PYTHONPATH", "")
    return [*first, *(os.path.abspath(folder) for folder in named.split(os.pathsep) if named), *installed]


def main():
    """Serve; and in each process that is begun, be that process."""
    installed, before = list(sys.path), set(os.environb)
    sys.path = search_path(installed)
    import_everything()
    process = serve(socket.socket(fileno=int(sys.argv[1])))
    process.prepare(before)
    process.run(installed)


if __name__ == "__main__":
    main()
