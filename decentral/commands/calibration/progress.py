"""Progress of a measurement that all ranks make together, shown by rank 0."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from decentral.comm.world import World


@contextmanager
def progress(world: World, what: str, seconds: float) -> Iterator[Callable[[float], None]]:
    """A bar on standard error of rank 0, or one line where that is no terminal; takes the share that is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if world.rank or not console.is_terminal:
        if world.rank == 0:
            print(f"{what}: up to {seconds:g} s", file=sys.stderr, flush=True)
        yield lambda share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(what, total=1.0)
        yield lambda share: bars.update(task, completed=share)
