"""How much memory there is for what is about to be built, so that what cannot fit is refused before it is begun."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def refuse_beyond_room(least_bytes: float, what: str, remedy: str) -> None:
    """Raise ValueError where ``what`` takes ``least_bytes`` at the least and this process cannot have so many."""
    if least_bytes > 1e7 and least_bytes > (
        room := free_bytes()
    ):  # little always fits, and asking costs time
        raise ValueError(
            f"{what} takes {in_words(least_bytes)} of memory at the least, and {in_words(room)} are free; {remedy}"
        )


def free_bytes() -> float:
    """Bytes that this process can still have: free memory and swap, within its container's and its shell's limits."""
    return max(0.0, min(_machine_bytes(), _group_bytes(), _shell_bytes()))


def in_words(size: float) -> str:
    """``size`` bytes in decimal units: 2.5 GB."""
    for unit, power in (("EB", 18), ("PB", 15), ("TB", 12), ("GB", 9), ("MB", 6)):
        if size >= 10**power:
            return (
                f"{size / 10**power:,.3g} {unit}"
                if size < 10 ** (power + 3)
                else f"{size / 10**power:.0e} {unit}"
            )
    return f"{size / 1e3:.3g} kB"


def _machine_bytes() -> float:
    """What the system says could be had without swapping, and its swap; without Linux, all memory there is."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free_kb = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
        return 1024.0 * (free_kb["MemAvailable"] + free_kb.get("SwapFree", 0))
    except (OSError, LookupError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def _group_bytes() -> float:
    """The limit of the control group, as containers and batch systems set it."""
    for path in _GROUPS:
        try:
            return float(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):  # none, or "max"
            continue
    return math.inf


def _shell_bytes() -> float:
    """What ``ulimit -v`` leaves beyond what this process has."""
    try:
        import resource  # here: not on all systems

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most == resource.RLIM_INFINITY:
            return math.inf
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return float(most - pages * resource.getpagesize())
    except (ImportError, OSError, ValueError):
        return math.inf
