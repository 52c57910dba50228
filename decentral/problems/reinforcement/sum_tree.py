"""A tree of sums in an array: numbers are drawn in proportion to their size, and changed, in a pass over its levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def leaves_for(count: int) -> int:
    """The power of two that has room for ``count`` numbers."""
    return 1 << max(0, count - 1).bit_length()


class SumTree:
    """Over ``nodes`` (2 L,), which it changes: node i >= 1 is the sum of 2 i and 2 i + 1; leaf k is node L + k."""

    def __init__(self, nodes: Floats) -> None:
        self.nodes, self.leaves = nodes, len(nodes) // 2

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(self.nodes[1])

    @property
    def largest(self) -> float:
        """The largest leaf."""
        return float(self.nodes[self.leaves :].max())

    def put(self, which: NDArray[np.int64], values: Floats) -> None:
        """Leaves ``which`` get these values; where one is named twice, the last holds."""
        nodes = which + self.leaves
        self.nodes[nodes] = values
        while nodes[0] > 1:
            nodes = np.unique(nodes >> 1)
            self.nodes[nodes] = self.nodes[2 * nodes] + self.nodes[2 * nodes + 1]

    def find(self, sums: Floats) -> NDArray[np.int64]:
        """Of each number in [0, total), the leaf where the running sum of leaves first exceeds it; never one of 0."""
        nodes, left_over = np.ones(len(sums), np.int64), sums.copy()
        while nodes[0] < self.leaves:
            left = self.nodes[2 * nodes]
            goes_right = (left_over >= left) & (self.nodes[2 * nodes + 1] > 0)  # sums are rounded
            left_over -= np.where(goes_right, left, 0)
            nodes = 2 * nodes + goes_right
        return nodes - self.leaves
