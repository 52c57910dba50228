"""Python for tests that start processes: called like Python, but the process need not import.

Importing torch and this package takes a rank three seconds of a core, and the suite starts hundreds of ranks.
``python tests/warm.py FOLDER [-m module | -c code | script] ...`` has a server that has imported everything fork the
process (see warm_server.py), and stands in for it towards the shell or mpirun: it hands over its arguments,
environment, open files, folder and cores, ends as that process ends, and its own end ends that process.

Server k listens at FOLDER/k. Ranks take turns at two: one server would give all of them one hash seed.
"""

import marshal
import os
import signal
import socket
import sys

SERVERS = 2
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK")
_READ_AT_IMPORT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # servers have one thread


def ask(folder, arguments):
    """Have a server begin ``python arguments``, and end as that ends."""
    if any(os.environ.get(name, "1") != "1" for name in _READ_AT_IMPORT):
        os.execv(sys.executable, [sys.executable, *arguments])
    rank = next((int(os.environ[key]) for key in _RANKS if key in os.environ), 0)
    files = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)]
    text = marshal.dumps((arguments, dict(os.environb), files, os.getcwd(), list(os.sched_getaffinity(0))))
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"{folder}/{rank % SERVERS}")
        socket.send_fds(server, [len(text).to_bytes(8, "little")], files)
        server.sendall(text)
        answer = server.recv(8)
    if not answer:
        sys.exit("warm.py: the server has ended; its standard error says why")
    code = int.from_bytes(answer, "little", signed=True)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    ask(sys.argv[1], sys.argv[2:])
