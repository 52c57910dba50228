"""Vectors cut into blocks, worked on one after the other so that what is computed on the way stays in cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1 << 18  # entries: smaller ones pay more for calls, larger ones more for memory


def rows_of(x: Tensor, width: int, most: int = BLOCK) -> Iterator[Tensor]:
    """(d,) as rows (b, width), each of at most about ``most`` entries, in order; a shorter last row by itself."""
    whole = len(x) // width * width
    if whole:
        yield from torch.split(x[:whole].view(-1, width), max(1, most // width))
    if whole < len(x):
        yield x[whole:].view(1, -1)
