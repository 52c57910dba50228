"""Random offsets to round with: many from few draws, any three of them independent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

_TABLE = 1 << 12


class Noise:
    """d numbers zero + u, u uniform in [0, 1); ``zero`` is a power of two, at most 2^15.

    The bits of u are those of an entry of a random table, xor those of a random number for each passage through it:
    simple tabulation hashing of the position, with two characters. So each u is uniform and any three are independent
    (four are not): means, variances and covariances of what is rounded are those of independent draws. A draw for each
    number would take longer than all else of the rounding.
    Resolution: the last place of ``zero`` in the dtype, 2^-19 for zero = 16 in float32.
    ``table`` (4096,) and ``passages`` (ceil(d / 4096),) are whole numbers; position i is entry i mod 4096 of passage
    i // 4096, and the bits of its number are the two, xor.
    Reference: Patrascu, Thorup, J. ACM 2012, arXiv 1011.5200.
    """

    def __init__(self, d: int, zero: int, dtype: np.dtype[Any], draw: Generator) -> None:
        self._bits = np.dtype(f"i{dtype.itemsize}")
        # whole words are the fastest that numpy draws
        words = draw.integers(0, (1 << 64) - 1, _TABLE - (-d // _TABLE), np.uint64, endpoint=True)
        below_1 = (1 << np.finfo(dtype).nmant - zero.bit_length() + 1) - 1
        bits = words.astype(self._bits) & below_1
        # numbers of one exponent: their bits are places of the same value
        self.table, self.passages = (
            bits[:_TABLE] | np.array(zero, dtype).view(self._bits),
            bits[_TABLE:],
        )
        self._block = np.empty((0, _TABLE), self._bits)

    def of(self, start: int, n: int) -> Tensor:
        """Those of the positions from ``start``, (n,), in memory that the next call uses again."""
        passages = self.passages[start // _TABLE : -(-(start + n) // _TABLE), None]
        if len(self._block) < len(passages):
            self._block = np.empty((len(passages), _TABLE), self._bits)
        block = np.bitwise_xor(self.table, passages, out=self._block[: len(passages)])
        skip = start % _TABLE
        return torch.from_numpy(block.view(f"f{self._bits.itemsize}").ravel()[skip : skip + n])
