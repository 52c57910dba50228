"""Ranks with torchrun's variables: what it starts, without the three seconds that it takes to import torch itself."""

import contextlib
import socket
import subprocess
import tempfile
import time
from types import SimpleNamespace

from ranks import ROOT, environment, run_ranks, servers


def told(rank, ranks, port):
    """What torchrun tells a rank, all being on one host."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    words = {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {key: str(value) for key, value in (numbers | words).items()}


def free_port():
    """One that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def started(commands, cwd=ROOT, **env):
    """``python arguments`` on a rank for each of the ``commands``: (the processes, the file of what they say)."""
    ranks, port = len(commands), free_port()
    python = servers().command(ranks)
    with tempfile.TemporaryFile("w+") as said, contextlib.ExitStack() as running:
        processes = []
        for rank, arguments in enumerate(commands):
            command, mine = [*python, *map(str, arguments)], environment(**told(rank, ranks, port), **env)
            process = subprocess.Popen(command, env=mine, cwd=cwd, stdout=said, stderr=subprocess.STDOUT)
            processes.append(running.enter_context(process))
            running.callback(process.kill)
        yield processes, said


def ended(processes, said, timeout=120):
    """The exit codes, and what all have said. Raises TimeoutError."""
    until = time.monotonic() + timeout
    for process in processes:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            said.seek(0)
            raise TimeoutError(f"ranks took more than {timeout} s; they had said: {said.read()}") from None
    said.seek(0)
    text = said.read()
    codes = [process.returncode for process in processes]
    return SimpleNamespace(codes=codes, returncode=max(codes, key=abs), stdout=text, stderr=text)


def run_torch(ranks, *args, timeout=120, **more):
    """As run_ranks; their output is one."""
    if ranks == 1:
        return run_ranks(1, *args, timeout=timeout, **more)
    with started([args] * ranks, **more) as begun:
        return ended(*begun, timeout=timeout)
