"""What all ranks decide or wait for together: refusals on one line, and progress on rank 0."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from decentral.errors import UserError

T = TypeVar("T")


def together(world: Any, make: Callable[[], T]) -> T:
    """What ``make`` gives on this rank. If it raises UserError on any, rank 0 raises the first and the others end."""
    made, mistake = None, ""
    try:
        made = make()
    except UserError as error:
        mistake = str(error)
    mistakes = [text for text in world.agree(mistake) if text]
    if not mistakes:
        return made  # type: ignore[return-value]
    if world.rank == 0:
        raise UserError(mistakes[0])
    raise SystemExit(2)


def on_root(world: Any, make: Callable[[], T]) -> T:
    """What ``make`` gives on rank 0, on every rank (it pickles); a UserError as in :func:`together`."""

    def tried() -> tuple[str, T | None]:
        try:
            return "", make()
        except UserError as error:
            return str(error), None

    mistake, made = world.from_root(tried)
    if not mistake:
        return made  # type: ignore[no-any-return]
    if world.rank == 0:
        raise UserError(mistake)
    raise SystemExit(2)


@contextmanager
def progress(world: Any, what: str, seconds: float) -> Iterator[Callable[[float], None]]:
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
