"""The nodes of a lab, and what is between them: namespaces, a bridge, cards; to be made inside of :func:`contained`.

Every process here sees /dev/shm as memory of its own: the lab's has the files below, a node's is its temporary folder.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from decentral.errors import UserError
from decentral.network.lab.buckets import tc_lines
from decentral.network.lab.contained import HEARD
from decentral.network.lab.layout import NETWORK, OUTSIDE, Layout, Node, address, outside
from decentral.network.lab.linux import bind, mount, separate

MEMORY = Path("/dev/shm")
TEMPORARY = MEMORY / "tmp"
PROGRAMS = MEMORY / "bin"
HOSTS = MEMORY / "hosts"
RANKS = {"openmpi": "{} slots={}\n", "mpich": "{}:{}\n"}
"""Host files of launchers, by the name that :func:`ranks_file` has for them: a line a node, with its ranks."""

_SSH = """#!/bin/sh
# enters a node of this lab: ssh [options] NODE COMMAND ...
while :; do case $1 in
    -[BbcDEeFIiJLlmOopQRSWw]) shift 2 ;;
    -*) shift ;;
    *) break ;;
esac; done
node=${1#*@}; shift
case $node in
%s
    *) echo "ssh: $node is no node of this lab" >&2; exit 255 ;;
esac
exec nsenter --target "$pid" --net --uts --mount --ipc \\
    sh -c 'cd "$1"; shift; export TMPDIR=%s; exec sh -c "$*"' sh "$PWD" "$@"
"""


_OF_NODE = {
    "conf/all/arp_ignore": "1",
    "conf/all/arp_announce": "2",
    # every namespace may have it; what the machine has may be bbr, which keeps to a pace that a card's other
    # messages once forced on it
    "tcp_congestion_control": "reno",
}
"""Files below /proc/sys/net/ipv4. Cards of one node answer for their own addresses only."""


def build(layout: Layout, delays: bool) -> dict[str, int]:
    """Make all nodes; the process of each by its name, which holds its namespaces. ``delays``: the kernel has netem."""
    _own_memory(OUTSIDE)
    PROGRAMS.mkdir()
    HOSTS.write_text(layout.host_file, encoding="utf-8")
    for kind, line in RANKS.items():
        text = "".join(line.format(node.name, len(node.workers)) for node in layout.nodes)
        ranks_file(kind).write_text(text, encoding="utf-8")
    bind(str(HOSTS), "/etc/hosts")
    pids = {node.name: _hold(node.name) for node in layout.nodes}
    lines = [
        "link set lo up",
        "link add bridge type bridge",
        f"addr add {outside()}/{NETWORK.prefixlen} dev bridge",
    ]
    for node in layout.nodes:
        for k, i in enumerate(node.workers):
            lines += [
                f"link add card{i} type veth peer name eth{k} netns {pids[node.name]}",
                f"link set card{i} master bridge up",
            ]
    told("ip", [*lines, "link set bridge up"])
    for node in layout.nodes:
        enter = ["nsenter", "--target", str(pids[node.name]), "--net"]
        told("ip", _addresses(node), enter)
        told(
            "tc",
            [
                line
                for k, i in enumerate(node.workers)
                for line in tc_lines(layout.cluster, i, f"eth{k}", delays)
            ],
            enter,
        )
    cases = "\n".join(f"    {name}) pid={pid} ;;" for name, pid in pids.items())
    (PROGRAMS / "ssh").write_text(_SSH % (cases, TEMPORARY), encoding="utf-8")
    (PROGRAMS / "ssh").chmod(0o755)
    return pids


def ranks_file(kind: str) -> Path:
    """The host file for the launcher of "openmpi" or "mpich"."""
    return MEMORY / f"{kind}.hosts"


def told(program: str, lines: Iterable[str], before: Sequence[str] = ()) -> None:
    """Have ``ip`` or ``tc`` do these lines. Raises UserError with what it complains of."""
    done = subprocess.run(
        [*before, program, "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = " ".join(line.strip() for line in done.stderr.splitlines() if "failed" not in line)
        raise UserError(f"no lab can be made here: {program} says {said!r}; see `decentral doctor`")


def environment(layout: Layout) -> dict[str, str]:
    """This process's, for programs that start others on the nodes."""
    return dict(os.environ) | {
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(TEMPORARY),
        "HOSTNAME": OUTSIDE,
    }


def _addresses(node: Node) -> list[str]:
    """What is sent from an address leaves by its card."""
    lines = ["link set lo up"]
    for k, i in enumerate(node.workers):
        lines += [f"addr add {address(i)}/{NETWORK.prefixlen} dev eth{k}", f"link set eth{k} up"]
        if len(node.workers) > 1:
            lines += [
                f"rule add from {address(i)} table {k + 1}",
                f"route add {NETWORK} dev eth{k} src {address(i)} table {k + 1}",
            ]
    return lines


def _hold(name: str) -> int:
    """A process that does nothing in namespaces of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as told:
            if said := told.read():
                raise UserError(said)
        return pid
    try:
        separate("net", "uts", "mount", "ipc")
        _own_memory(name)
        with suppress(UserError):  # then programs that look there see cards that are not theirs
            mount("sysfs", "/sys", "sysfs")
        for file, value in _OF_NODE.items():
            Path(f"/proc/sys/net/ipv4/{file}").write_text(value, encoding="utf-8")
    except (UserError, OSError) as error:
        os.write(writing, str(error).encode())
        os._exit(1)
    for number in HEARD:
        signal.signal(number, signal.SIG_IGN)  # a terminal tells all
    os.execvp("sleep", ["sleep", "infinity"])


def _own_memory(name: str) -> None:
    socket.sethostname(name)
    mount("tmpfs", str(MEMORY), "tmpfs")
    TEMPORARY.mkdir()
