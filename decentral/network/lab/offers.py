"""What a lab needs of a machine, and whether it is here: programs, rights, and parts of the kernel, each tried."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from typing import NamedTuple

from decentral.network.lab.contained import contained, search_path
from decentral.network.lab.linux import mount, separate

PROGRAMS = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux"}
"""With the package that has each."""

_TRIED = {
    "veth": ["ip link add name veth0 type veth peer name veth1"],
    "bridge": ["ip link add name bridge0 type bridge"],
    "tbf": ["tc qdisc add dev veth0 root tbf rate 1mbit burst 15140 limit 100000"],
    "htb": [
        "tc qdisc add dev veth1 root handle 1: htb default 1",
        "tc class add dev veth1 parent 1: classid 1:1 htb rate 1mbit",
        "tc filter add dev veth1 parent 1: protocol ip prio 1 u32 match ip dst 10.0.0.1/32 flowid 1:1",
    ],
    "netem": ["tc qdisc add dev bridge0 root netem delay 1ms"],
    "rules": ["ip rule add from 10.0.0.1 table 1"],
}
"""Parts of the kernel, with what tries them."""


class Offers(NamedTuple):
    """``programs`` that are missing; ``refused``: why no namespaces can be made, or ""; ``kernel``: what it has not."""

    programs: tuple[str, ...]
    refused: str
    kernel: tuple[str, ...]

    @property
    def missing(self) -> str:
        """Why there can be no lab at all, with the remedy; "" if there can."""
        if self.programs:
            packages = " and ".join(dict.fromkeys(PROGRAMS[name] for name in self.programs))
            return f"{' and '.join(self.programs)} not found; install {packages}"
        if self.refused:
            return self.refused
        lacks = [name for name in ("veth", "bridge", "tbf") if name in self.kernel]
        return (
            f"the kernel has no {', '.join(lacks)}; load its modules (modprobe sch_tbf ...)" if lacks else ""
        )


def offers() -> Offers:
    """Look, and leave nothing behind; some 50 ms."""
    if platform.system() != "Linux":
        return Offers((), f"it is made of namespaces of Linux, and this is {platform.system()}", ())
    absent = tuple(name for name in PROGRAMS if shutil.which(name, path=search_path()) is None)
    if absent:
        return Offers(absent, "", ())
    reading, writing = os.pipe()
    code = contained(lambda: _tell(writing), writing)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as told:
        text = told.read().strip()
    if code:
        return Offers((), text.removeprefix("decentral: ") or f"trying ended with code {code}", ())
    return Offers((), "", tuple(json.loads(text)))


def _tell(file: int) -> int:
    separate("net", "uts", "mount", "ipc")
    mount("tmpfs", "/dev/shm", "tmpfs")
    lacks = [name for name, commands in _TRIED.items() if not all(map(_works, commands))]
    os.write(file, json.dumps(lacks).encode())
    return 0


def _works(command: str) -> bool:
    return subprocess.run(command.split(), capture_output=True, check=False).returncode == 0
