"""What is set before torch is there. Memory that stays: freed blocks are kept, and large ones lie on huge pages.

glibc otherwise returns large blocks to the kernel, and every round pays the page faults again; and with small pages a
walk down a block of columns of 16,384 workers misses the translation cache at every row.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for this process; False where the C library has no such setting.

    To be called before torch allocates: it reads the wish for huge pages at its first allocation.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    # where the threshold is refused (its maximum is smaller), no mmap at all has the same effect
    kept = mallopt(_M_MMAP_THRESHOLD, 1 << 30) == 1 or mallopt(_M_MMAP_MAX, 0) == 1
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1) == 1)


def spin_briefly() -> None:
    """Let torch's threads give their cores away 0.1 ms after an operation, not 2 ms: what shares a round needs them.

    To be called before torch is imported, whose OpenMP (libgomp) reads it then.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")


@cache
def collect_rarely() -> None:
    """Let Python look for circles a thirtieth as often, and not in what is there: messages are many, and in none.

    To be called once the first optimizer was made, for which torch imports much.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had: Python's, numpy's, or torch's, which are of other types."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError")
    )
