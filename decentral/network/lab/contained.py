"""Work in namespaces of Linux that end with their first process: what is made in them leaves nothing behind.

Three processes: this one, which hears signals and hands them on; one that makes the namespaces; and their first
process, which works. Each ends with the one before it, however that ends (the kernel's parent-death signal), and with
their first process the kernel ends all others in them, and their mounts, network cards and host names with these.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from decentral.errors import UserError
from topologies.wording import one_line, shown

KINDS = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "net": 0x40000000}
"""Namespaces by name, with the flag of unshare(2): file systems, host name, shared memory, network."""
_PROCESSES, _USERS = 0x20000000, 0x10000000
_PRIVATE, _BIND = 0x4000 | 0x40000, 0x1000  # MS_REC | MS_PRIVATE, MS_BIND
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_HEARD = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
_FROM_TERMINAL = 0x80  # SI_KERNEL: the terminal has told the whole group
NO_RIGHTS = (
    "no namespaces can be made here ({}); run as root, or have an administrator allow them (sysctl "
    "user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns; a container needs --privileged)"
)


def contained(work: Callable[[], int], complaints: int = 2) -> int:
    """The exit code of ``work``, done by root of namespaces of its own: file systems, network, host name, processes.

    Where this process is not root, in a user namespace. SIGINT, SIGTERM and SIGUSR1 are for the program that ``work``
    has :func:`run`. A UserError of ``work`` is a line on the file ``complaints``, standard error, and its code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD | {signal.SIGCHLD})
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, before | _HEARD)
        _last(lambda: _between(work, reading), complaints)
    os.close(reading)
    try:
        while True:
            heard = signal.sigwaitinfo(_HEARD | {signal.SIGCHLD})
            if heard.si_signo != signal.SIGCHLD and heard.si_code != _FROM_TERMINAL:
                os.write(writing, bytes([heard.si_signo]))
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return _code(status)
    finally:
        os.close(writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _between(work: Callable[[], int], signals: int) -> int:
    """Make the namespaces; their first process is the next."""
    _end_with_parent()
    _make_namespaces()
    pid = os.fork()
    if pid == 0:
        _end_with_parent()
        for number in _HEARD:
            signal.signal(number, lambda *_: os._exit(130))  # while nothing runs that could be told
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        os.environ["PATH"] = search_path()
        mount("", "/", flags=_PRIVATE)
        mount("proc", "/proc", kind="proc")
        global _signals
        _signals = signals
        return work()
    return _code(os.waitpid(pid, 0)[1])


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
    for number in _HEARD:
        signal.signal(number, lambda *_: None)  # the program has had the terminal's, too
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


def separate(*kinds: str) -> None:
    """Give this process namespaces of its own. Raises UserError where the kernel forbids it."""
    _call("unshare", sum(KINDS[kind] for kind in kinds))


def mount(what: str, where: str, kind: str = "", flags: int = 0) -> None:
    """As mount(2). Raises UserError."""
    _call("mount", what.encode(), where.encode(), kind.encode() or None, flags, None)


def bind(file: str, where: str) -> None:
    """Show ``file`` in the place of the file ``where``."""
    mount(file, where, flags=_BIND)


def _make_namespaces() -> None:
    flags = sum(KINDS.values()) | _PROCESSES
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        try:
            return _call("unshare", flags)
        except UserError:  # root of a container, perhaps
            pass
    _call("unshare", flags | _USERS)
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{file}", "w", encoding="utf-8") as told:
            told.write(text)


def _end_with_parent() -> None:
    _call("prctl", _DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)


def _call(name: str, *args: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*args):
        raise UserError(NO_RIGHTS.format(f"{name}: {os.strerror(ctypes.get_errno())}"))


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
