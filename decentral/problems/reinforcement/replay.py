"""The replay of one worker: a ring of transitions in rows that the objective owns, drawn alike or by priority.

    P(i) = p_i^alpha / sum p^alpha,      p_i = |delta_i| + 1e-6,      weight_i = (N P(i))^-beta / max weight

Reference: arXiv 1511.05952. A transition that has not been learned from has the largest priority there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.problems.reinforcement.sum_tree import SumTree

if TYPE_CHECKING:
    from decentral.problems.reinforcement.settings import Settings

_LEAST = 1e-6


class Drawn(NamedTuple):
    """Which rows of the ring (B,), and their importance weights (B,)."""

    which: NDArray[np.int64]
    weight: NDArray[np.float64]


class Replay:
    """Over ``rows`` (capacity, width), ``count`` (1,), of all that were ever pushed, and ``tree`` (2 L,) or None."""

    def __init__(self, settings: Settings, rows: Tensor, count: Tensor, tree: Tensor | None) -> None:
        self.settings, self.rows, self.count = settings, rows, count
        self.tree = None if tree is None else SumTree(tree.numpy())

    @classmethod
    def of(cls, settings: Settings, buffers: Mapping[str, Tensor], row: int) -> Replay:
        """That of hosted worker ``row``."""
        tree = buffers["priorities"][row] if settings.prioritised else None
        return cls(settings, buffers["replay"][row], buffers["pushed"][row], tree)

    @property
    def size(self) -> int:
        """Transitions that are there."""
        return min(int(self.count), len(self.rows))

    def push(self, new: Tensor) -> None:
        """Transitions (k, width) in the place of the oldest ones."""
        which = (int(self.count) + np.arange(len(new))) % len(self.rows)
        self.rows[torch.from_numpy(which)] = new
        if self.tree is not None:
            self.tree.put(which, np.full(len(new), self.tree.largest or 1.0))
        self.count += len(new)

    def draw(self, rng: np.random.Generator, batch: int) -> Drawn:
        """So many transitions: uniformly, with replacement, or one of each of as many equal shares of the priority."""
        if self.tree is None:
            return Drawn(rng.integers(self.size, size=batch), np.ones(batch))
        total = self.tree.total
        which = self.tree.find((np.arange(batch) + rng.random(batch)) / batch * total)
        share = self.tree.nodes[self.tree.leaves + which] / total
        weight = (self.size * share) ** -self.settings.importance_exponent
        return Drawn(which, weight / weight.max())

    def learned(self, which: NDArray[np.int64], errors: Tensor) -> None:
        """Transitions ``which`` had these absolute temporal differences (B,)."""
        if self.tree is not None:
            sizes = errors.double().cpu().numpy() + _LEAST
            self.tree.put(which, sizes**self.settings.priority_exponent)
