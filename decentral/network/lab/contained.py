"""Work in namespaces of Linux that end with their first process: what is made in them leaves nothing behind.

Three processes: this one, which hears signals and hands them on; one that makes the namespaces; and their first
process, which works. Each ends with the one before it, however that ends (the kernel's parent-death signal), and with
their first process the kernel ends all others in them, and their mounts, network cards and host names with these.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from decentral.errors import UserError
from decentral.network.lab.linux import end_with_parent, see_own_processes, separate_children
from topologies.wording import one_line, shown

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that are for the program that works, whichever of its processes they are sent to."""


def contained(work: Callable[[], int], complaints: int = 2) -> int:
    """The exit code of ``work``, done by root of namespaces of its own: file systems, network, host name, processes.

    Where this process is not root, in a user namespace. The signals HEARD are for the program that ``work`` has
    :func:`run`. A UserError of ``work`` is a line on the file ``complaints``, standard error, and its code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    numbers, woken = os.pipe()  # all that is heard; numpy's threads may be the ones that hear it
    os.set_blocking(woken, False)
    before = {number: signal.signal(number, _nothing) for number in (*HEARD, signal.SIGCHLD)}
    signal.set_wakeup_fd(woken)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        os.close(writing)
        _last(lambda: _between(work, reading), complaints)
    os.close(reading)
    try:
        return _waited(pid, numbers, writing)
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        for file in (numbers, woken, writing):
            os.close(file)


def _waited(pid: int, numbers: int, writing: int) -> int:
    """The exit code of the process ``pid``; signals are handed on until then."""
    while True:
        number = os.read(numbers, 1)
        if number[0] != signal.SIGCHLD and not (number[0] == signal.SIGINT and _of_terminal()):
            with suppress(BrokenPipeError):
                os.write(writing, number)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return _code(status)


def _of_terminal() -> bool:
    """Whether SIGINT comes from a terminal, most likely: it has told all processes of its foreground."""
    with suppress(OSError), open("/dev/tty", "rb") as terminal:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    return False


def _between(work: Callable[[], int], signals: int) -> int:
    """Make the namespaces; their first process is the next."""
    global _signals
    end_with_parent()
    for number in HEARD:
        signal.signal(number, signal.SIG_IGN)
    separate_children()
    pid = os.fork()
    if pid:
        return _code(os.waitpid(pid, 0)[1])
    end_with_parent()
    for number in HEARD:
        signal.signal(number, lambda *_: os._exit(130))  # while nothing runs that could be told
    os.environ["PATH"] = search_path()
    see_own_processes()
    _signals = signals
    return work()


_signals = -1
"""In the first process of the namespaces: where the outer process writes the numbers of signals; its end is an end."""


def run(command: Sequence[str], environment: Mapping[str, str], needed: Mapping[str, int]) -> int:
    """The exit code of a program, to be called by the work of :func:`contained`. Orphans are waited for meanwhile.

    ``needed``: processes that must live as long, by name; UserError if one does not.
    """
    program = shutil.which(command[0], path=environment.get("PATH"))
    if program is None:
        raise UserError(f"{shown(command[0])} is no program on PATH; give one, and its arguments")
    pid = os.posix_spawn(program, list(command), environment)
    for number in HEARD:
        signal.signal(number, _nothing)  # the program has had the terminal's, too
    threading.Thread(target=_tell, args=(pid,), daemon=True).start()
    while True:
        ended, status = os.wait()
        if ended == pid:
            return _code(status)
        if lost := [name for name, one in needed.items() if one == ended]:
            raise UserError(f"{lost[0]} has ended before the command, and the lab with it; see who killed it")


def _tell(pid: int) -> None:
    while numbers := os.read(_signals, 1):
        os.kill(pid, numbers[0])
    os._exit(1)  # the outer process is gone


def search_path() -> str:
    """Where programs are looked for in the namespaces: on PATH, and where those for root are, which users' has not."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler, so that the signal does nothing here and what it did at first in programs that are started."""


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _last(work: Callable[[], int], complaints: int) -> NoReturn:
    """End this process with the code of ``work``, and by no other way."""
    code = 1
    try:
        code = work()
    except UserError as error:
        os.write(complaints, f"decentral: {one_line(str(error))}\n".encode())
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
