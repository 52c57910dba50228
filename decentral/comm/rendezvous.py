"""Where ranks of torch.distributed meet: an address, or a file where all are on one host."""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from pathlib import Path

from decentral.comm.launch import (
    RANKS,
    SLURM_STEP,
    by_srun,
    by_torchrun,
    launched_local_ranks,
    launched_ranks,
    told_number,
)
from decentral.errors import UserError
from topologies.wording import shown

_PORTS = range(10_000, 30_000)  # below those that Linux gives to connections


def meeting_point() -> str:
    """``tcp://HOST:PORT`` or ``file:///PATH``, an ``init_method`` of torch.distributed, the same on all ranks.

    MASTER_ADDR and MASTER_PORT where they are set. Else under srun the first host of the step, where rank 0 is, and a
    port by job and step; under another launcher that has all ranks on this host, a file in the temporary folder that
    bears the launcher's number. Raises UserError where nothing tells the address, or it is none.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if host or port:
        return _address(host or _step_host(), port or _step_port())
    if by_srun() and not by_torchrun():
        return _address(_step_host(), _step_port())
    if launched_local_ranks() == launched_ranks():
        return f"file://{tempfile.gettempdir()}/decentral-{os.getuid()}-{_launcher_id()}"
    raise UserError(
        f"{launched_ranks()} ranks of torch, {launched_local_ranks()} known to be on this host, and no MASTER_ADDR to "
        "meet at; set it and MASTER_PORT to rank 0's host and a free port, or use ./mpi_launch.sh --transport torch"
    )


def first_host(hosts: str) -> str:
    """The first of a host list of Slurm's, such as gpu[03-07,12],login: each bracket's first number, digits kept."""
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", hosts).split(",")[0]


def _step_host() -> str:
    if by_srun() and told_number("SLURM_STEP_NUM_NODES") == 1:
        return "127.0.0.1"
    return first_host(os.environ.get("SLURM_STEP_NODELIST", "")) if by_srun() else ""


def _step_port() -> str:
    if not by_srun():
        return ""
    step = f"{os.environ.get('SLURM_JOB_ID')}.{os.environ.get('SLURM_STEP_ID')}"
    return str(_PORTS[zlib.crc32(step.encode()) % len(_PORTS)])


def _address(host: str, port: str) -> str:
    given = f"MASTER_ADDR={shown(host)} and MASTER_PORT={shown(port)}"
    if not host or re.search(r"[\s/@?#]", host):
        raise UserError(
            f"{given}: torch's ranks meet at rank 0's host, by name or IP address; set both, or neither"
        )
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise UserError(f"{given}: a port is a number from 1 to 65535; set both, or neither")
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _launcher_id() -> str:
    """Of the process that started the ranks: the nearest ancestor that is no rank itself; its number and start.

    A rank may stand behind a shell of its own, so it is not simply the parent.
    """
    rank = tuple(f"{key}=".encode() for key in (*RANKS, SLURM_STEP[1]))
    pid = os.getppid()
    try:
        while any(pair.startswith(rank) for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
            pid = int(_status(pid)[1])
    except PermissionError:
        pass  # another user's, as a launcher's service may be: no rank
    except OSError:
        raise UserError(
            "torch's ranks find the launcher that started them by /proc, and this system has none; "
            "set MASTER_ADDR=127.0.0.1 and MASTER_PORT to a free port"
        ) from None
    return f"{pid}-{_status(pid)[19]}"


def _status(pid: int) -> list[str]:
    """What Linux tells of a process, behind its name: state, parent, ...; the 19th is its start in clock ticks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
