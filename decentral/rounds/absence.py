"""Workers that are away stand still: what a round makes of their rows is undone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from decentral.algorithms.state import tensors_of


class Standing(NamedTuple):
    """The hosted rows of the workers that are away, and copies of what they had."""

    rows: list[int]
    kept: list[Tensor]


def stand(rows: list[int], x: Tensor, state: Any, buffers: Mapping[str, Tensor]) -> Standing:
    """Copies of these rows of models x (h, d), of the method's state and of the models' buffers."""
    return Standing(rows, [part[rows].clone() for part in _parts(x, state, buffers)] if rows else [])


def put_back(standing: Standing, x: Tensor, state: Any, buffers: Mapping[str, Tensor]) -> None:
    """Undo what a round did to those rows. Numbers that all workers share, such as the last lr, stay as they are."""
    if standing.rows:
        for part, kept in zip(_parts(x, state, buffers), standing.kept, strict=True):
            part[standing.rows] = kept


def _parts(x: Tensor, state: Any, buffers: Mapping[str, Tensor]) -> list[Tensor]:
    return [x, *tensors_of(state), *buffers.values()]
