"""Calls of Linux that Python lacks: namespaces, mounts, and an end together with one's parent."""

from __future__ import annotations

import ctypes
import os
import signal

from decentral.errors import UserError

KINDS = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "net": 0x40000000}
"""Namespaces by name, with the flag of unshare(2): file systems, host name, shared memory, network."""
_PROCESSES, _USERS = 0x20000000, 0x10000000
_RECURSIVE, _PRIVATE, _BIND = 0x4000, 0x40000, 0x1000  # MS_REC, MS_PRIVATE, MS_BIND
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_REFUSED = (
    "no namespaces can be made here ({}); run as root, or have an administrator allow them (sysctl "
    "user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns; a container needs --privileged)"
)


def separate(*kinds: str) -> None:
    """Give this process namespaces of its own. Raises UserError where the kernel forbids it."""
    _call("unshare", sum(KINDS[kind] for kind in kinds))


def separate_children() -> None:
    """All namespaces, those of its children's processes too, and this user as their root; UserError where forbidden."""
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


def see_own_processes() -> None:
    """In the first process of its namespaces: its mounts are seen in them only, and /proc has their processes."""
    mount("", "/", flags=_RECURSIVE | _PRIVATE)
    mount("proc", "/proc", kind="proc")


def mount(what: str, where: str, kind: str = "", flags: int = 0) -> None:
    """As mount(2). Raises UserError."""
    _call("mount", what.encode(), where.encode(), kind.encode() or None, flags, None)


def bind(file: str, where: str) -> None:
    """Show ``file`` in the place of the file ``where``."""
    mount(file, where, flags=_BIND)


def end_with_parent() -> None:
    """From here on the kernel kills this process when its parent has ended."""
    _call("prctl", _DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)


def _call(name: str, *args: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*args):
        raise UserError(_REFUSED.format(f"{name}: {os.strerror(ctypes.get_errno())}"))
