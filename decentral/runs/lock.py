"""One job per results folder: DIR/lock.json says who writes there, from before the first file to the end.

The lock is the kernel's (flock), which lets go of it when its process ends, however that ends. The text in the file is
for people, for other hosts that share the folder, and for file systems without flock: host, process, when it began,
and the start of Slurm's job: when Slurm starts a job again, maybe elsewhere, its start before is at an end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decentral.disk import naming
from decentral.errors import UserError
from topologies.wording import shown

LOCK = "lock.json"
_TRIES, _WAIT_S = 10, 0.05


def refuse_if_taken(folder: Path) -> None:
    """Raise UserError where a living job writes in ``folder``; changes nothing."""
    path = folder / LOCK
    # where it cannot be opened there is no lock, or nothing that could be one
    with contextlib.suppress(OSError), path.open("rb") as file:
        if not _lock(file.fileno(), fcntl.LOCK_SH):
            raise _taken(path, _told(path))
        _refuse_owner(path, _told(path))


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[str]:
    """The folder, made where it is missing, is this job's until the end of the block.

    Raises UserError if it is another's. Gives a note: whose lock was left behind and is taken over, or "".
    """
    path = folder / LOCK
    with naming(path):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, note = _take(path)
    try:
        yield note
    finally:
        _let_go(path, descriptor)


def _take(path: Path) -> tuple[int, str]:
    """The open lock file, and the note of :func:`taken`."""
    for _ in range(_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # else somebody has it, or only looks; or its last owner has removed it since it was opened
            if _lock(descriptor, fcntl.LOCK_EX) and _is_at(path, descriptor):
                note = _refuse_owner(path, _told(path))
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, (json.dumps(_me()) + "\n").encode(), 0)
                return descriptor, note
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_WAIT_S)
    raise _taken(path, _told(path))


def _let_go(path: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if _is_at(path, descriptor):
            path.unlink()
    os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    """Whether the kernel gives the lock, or has none on this file system."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _told(path: Path) -> dict[str, Any]:
    """Who the file says that it belongs to; {} where it says nothing."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _refuse_owner(path: Path, owner: dict[str, Any]) -> str:
    """The kernel's lock is free: refuse an owner that it may not know of; else the note of :func:`taken`."""
    if not owner:
        return ""
    who = f"process {shown(owner.get('pid'))} of {shown(owner.get('host'))}"
    if _is_earlier_start(owner.get("slurm"), _slurm_start()):
        return f"took over {path} of {who}, an earlier start of this job"
    if owner.get("host") != platform.node():
        raise UserError(
            f"--out {path.parent} is being written to by {who} since {shown(owner.get('since'))}; wait for its end, or "
            f"choose another folder; if it runs no more, remove {path}"
        )
    pid = owner.get("pid")
    if isinstance(pid, int) and pid != os.getpid() and _began(pid) == owner.get("began") is not None:
        raise _taken(path, owner)
    return f"took over {path} of {who}, which has ended"


def _taken(path: Path, owner: dict[str, Any]) -> UserError:
    who = f"process {shown(owner.get('pid', '?'))} of {shown(owner.get('host', '?'))}"
    return UserError(
        f"--out {path.parent} is being written to by {who} since {shown(owner.get('since', '?'))}; wait for its end, "
        "or choose another folder"
    )


def _me() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    me = {"host": platform.node(), "pid": os.getpid(), "began": _began(os.getpid()), "since": since}
    return me | ({"slurm": start} if (start := _slurm_start()) else {})


def _slurm_start() -> list[Any]:
    """Cluster, job, and how often Slurm has started it again; [] outside of a job."""
    cluster, job, again = (
        os.environ.get(f"SLURM_{key}", "") for key in ("CLUSTER_NAME", "JOB_ID", "RESTART_COUNT")
    )
    return [cluster, job, int(again) if again.isdecimal() else 0] if job else []


def _is_earlier_start(owner: object, mine: list[Any]) -> bool:
    if not (mine and isinstance(owner, list) and len(owner) == len(mine) and isinstance(owner[2], int)):
        return False
    return owner[:2] == mine[:2] and owner[2] < mine[2]


def _began(pid: int) -> str | None:
    """When a process of this host began, in ticks of this boot; None where that cannot be known, or it is gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else f"{boot} {fields[19].decode()}"
