"""Dataset: the examples of a classification problem, as tensors in the scale a model wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from topologies.streams import stream

Array = np.ndarray[Any, Any]
Examples = tuple[Array, Array]
"""Inputs (N, ...) and labels (N,) of any numeric type."""


class Scale(NamedTuple):
    """Inputs are (pixel - ``mean``) / ``std``, of pixels from 0 to 1: numbers for all channels, or one of each."""

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    def of(self, pixels: Array | float) -> Array:
        """Inputs of pixels (..., channels, height, width), in float32; of one pixel (channels or 1, 1, 1)."""
        mean, std = (np.array(c, np.float32).reshape(-1, 1, 1) for c in self)
        return np.asarray((np.asarray(pixels, np.float32) - mean) / std)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test examples of a classification problem.

    ``train_x``, ``test_x``: float32, (N, channels, height, width) or (N, features), model-ready.
    ``train_y``, ``test_y``: int64, (N,), values 0..classes-1. ``note``: split and standardisation.
    ``scale``: of images; None where inputs have no range.
    The tensors are shared by all who load the set in this process: do not write to them.
    """

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    classes: int
    name: str
    note: str
    scale: Scale | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (channels, height, width) or (features,)."""
        return tuple(self.train_x.shape[1:])

    @classmethod
    def of(
        cls, name: str, train: Examples, test: Examples, classes: int, note: str, scale: Scale | None = None
    ) -> Self:
        """The data set of these arrays, converted to float32 and int64 tensors."""
        return cls(*_tensors(train), *_tensors(test), classes, name, note, scale)


def fixed_split(name: str, samples: int) -> tuple[Array, Array]:
    """Sorted indices of the first 80 % and the last 20 % of a permutation that depends on ``name`` only."""
    order = stream(0, "split", name).permutation(samples)
    cut = samples * 4 // 5
    return np.sort(order[:cut]), np.sort(order[cut:])


def _tensors(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = examples
    return torch.from_numpy(np.ascontiguousarray(x, np.float32)), torch.from_numpy(y.astype(np.int64))
