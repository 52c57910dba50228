"""Payloads of messages: a tensor (rows, features), or a tuple of such, whose features belong side by side.

None is the gradient that nobody wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor


def rows_of(payload: Any) -> int:
    """Rows of a payload."""
    rows: int = (payload[0] if type(payload) is tuple else payload).size(0)  # half the time of len()
    return rows


def whole(payload: Any) -> Tensor:
    """A payload as one tensor."""
    return torch.cat(payload, dim=1) if type(payload) is tuple else payload


def pieces(x: Tensor, sizes: Sequence[int], dim: int = 0) -> Sequence[Tensor]:
    """Views of x, one after the other, of which autograd shall know nothing: half the time of ``Tensor.split``."""
    return torch.unsafe_split_with_sizes(x, sizes, dim)


def joined(payloads: Sequence[Any], rows: Sequence[int] | None = None) -> Tensor:
    """One tensor (all rows, features) of messages' payloads; ``rows`` of each, where known."""
    if len(payloads) == 1:
        return whole(payloads[0])
    if not _parts(payloads):
        return torch.cat([whole(payload) for payload in payloads])
    if _all_one(rows or list(map(rows_of, payloads))):
        return torch.cat(list(chain.from_iterable(payloads)), 1).view(len(payloads), -1)
    return torch.cat([torch.cat(parts) for parts in zip(*payloads, strict=True)], 1)


def cut(y: Tensor | None, rows: Sequence[int]) -> Sequence[Any]:
    """So many rows of y for each payload; None for each, if y is None."""
    if y is None:
        return [None] * len(rows)
    return (y,) if len(rows) == 1 else pieces(y, rows)


def cut_like(dx: Tensor | None, payloads: Sequence[Any], rows: Sequence[int]) -> Sequence[Any]:
    """The same, as a tuple of parts where the payload is one."""
    parts = _parts(payloads)
    if dx is None or not parts:
        return cut(dx, rows)
    widths = [part.size(1) for part in payloads[0]]
    if _all_one(rows):
        flat = iter(pieces(dx.reshape(1, -1), widths * len(payloads), 1))
        return list(zip(*[flat] * parts, strict=True))
    return list(zip(*(cut(part, rows) for part in pieces(dx, widths, 1)), strict=True))


def total(payloads: Sequence[Any]) -> Any:
    """The sum, in order; of tuples by part; None if there is nothing to sum."""
    known = [p for p in payloads if p is not None]
    if not known:
        return None
    first, *others = known
    if type(first) is tuple:
        return tuple(total(parts) for parts in zip(*known, strict=True))
    for other in others:
        first = first + other
    return first


def side_by_side(payloads: Sequence[Any]) -> tuple[Tensor, ...]:
    """Payloads as one."""
    if tuple not in map(type, payloads):
        return tuple(payloads)
    found: list[Tensor] = []
    for payload in payloads:
        if type(payload) is tuple:
            found += payload
        else:
            found.append(payload)
    return tuple(found)


def _parts(payloads: Sequence[Any]) -> int:
    """Parts of each payload, if all are tuples of as many; else 0."""
    if set(map(type, payloads)) != {tuple}:
        return 0
    lengths = set(map(len, payloads))
    return lengths.pop() if len(lengths) == 1 else 0


def _all_one(rows: Sequence[int]) -> bool:
    return rows.count(1) == len(rows)
