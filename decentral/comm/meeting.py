"""What ranks tell each other when they meet: what each runs, with which versions, and where."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import topologies
from decentral.comm.launch import told_local_rank
from decentral.errors import AgreedError
from topologies.wording import shown

_HERE = Path(__file__).parents[2]
_PACKAGES = ("decentral", "topologies")


class Told(NamedTuple):
    """Of one rank. ``system``: the machine and its space of process numbers; ``source``: where the package lies."""

    command: str
    versions: tuple[tuple[str, str], ...]
    host: str
    system: tuple[str, int]
    source: str
    pid: int
    local_rank: int | None


class Met(NamedTuple):
    """What is known then: this rank's number on its host, and the processes of the others there, by rank."""

    local_rank: int
    pids: dict[int, int]


def meet(rank: int, agree: Callable[[Any], Sequence[Any]], command: str) -> Met:
    """Every rank calls it. Raises AgreedError where ranks run different commands, versions or sources."""
    everyone: Sequence[Told] = agree(_told(command))
    mine = everyone[rank]
    _check_alike("was started with", [shown(told.command) for told in everyone], "start all with one command")
    for number, (name, _) in enumerate(mine.versions):
        found = [f"{name} {told.versions[number][1]}" for told in everyone]
        _check_alike("has", found, "install the same on every host")
    if len({(told.system, told.source) for told in everyone}) > 1:
        sources = [
            f"other source files of decentral ({digest}, in {shown(told.source)} on {shown(told.host)})"
            for told, digest in zip(everyone, agree(_source_digest()), strict=True)
        ]
        _check_alike("has", sources, "install the same on every host", lambda text: text.split("(")[1][:16])
    here = [r for r, told in enumerate(everyone) if told.system == mine.system]
    told_all = all(told.local_rank is not None for told in everyone)
    number = mine.local_rank if told_all and mine.local_rank is not None else here.index(rank)
    return Met(number, {r: everyone[r].pid for r in here if r != rank})


def fingerprint(schedule: topologies.Schedule) -> str:
    """What mixing schedules are told apart by: a digest of the matrices of a period, or of those that are known."""
    digest = hashlib.sha256(repr((schedule.n, schedule.period)).encode())
    for t in schedule.rounds:
        w = schedule.matrix(t).tocsr()
        for part in (w.indptr, w.indices, w.data):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _check_alike(
    verb: str, texts: Sequence[str], remedy: str, key: Callable[[str], str] = lambda text: text
) -> None:
    for rank, text in enumerate(texts):
        if key(text) != key(texts[0]):
            raise AgreedError(f"ranks differ: rank {rank} {verb} {text}, rank 0 {verb} {texts[0]}; {remedy}")


def _told(command: str) -> Told:
    import torch

    versions = {"decentral": "not installed", "Python": platform.python_version()}
    with suppress(PackageNotFoundError):
        versions["decentral"] = version("decentral")
    versions |= {"torch": str(torch.__version__), "numpy": np.__version__}
    return Told(
        command,
        tuple(versions.items()),
        platform.node(),
        _system(),
        str(_HERE),
        os.getpid(),
        told_local_rank(),
    )


def _system() -> tuple[str, int]:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, os.stat("/proc/self/ns/pid").st_ino
    return platform.node(), 0


def _source_digest() -> str:
    """Of the files of this package, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for package in _PACKAGES:
        for path in sorted((_HERE / package).rglob("*.py")):
            digest.update(str(path.relative_to(_HERE)).encode() + path.read_bytes())
    return digest.hexdigest()
