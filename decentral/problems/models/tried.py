"""What is known of a module's passes before it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _batchable() -> str:
    return ""


@dataclass(frozen=True)
class Tried:
    """``draws``: the global generators that are given a stream for each pass, by the names in :mod:`..draws`.

    ``unbatchable()``: why ``vmap`` is not for it, or ""; found when it is asked for. ``stateless``: ``functional_call``
    gives it all that it maps its inputs by, and it leaves nothing there. ``notes``: what the user should know.
    """

    draws: frozenset[str] = frozenset()
    unbatchable: Callable[[], str] = _batchable
    stateless: bool = True
    notes: tuple[str, ...] = ()


TRUSTED = Tried()
"""A model of this package: none draws, and all but the recurrent ones can be batched."""
