"""Low rank: each matrix as the product of two thin factors, by one power iteration that goes on from the last one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from decentral.comm.compression import loops
from decentral.comm.compression.blocks import rows_of
from decentral.comm.compression.compressor import Compressor, Encoded
from decentral.comm.compression.packets import Array, end, join, numpy_type, take
from decentral.comm.layout import Layout
from decentral.kernels import repaid
from topologies.settings import plain_settings


@dataclass(frozen=True)
class LowRank(Compressor):
    """Each parameter of shape (m, ...) is a matrix M (m, n); the state is its Q (n, r) of the round before.

        P = orthonormal basis of M Q;   Q = M' P;   C(M) = P Q' = P P' M,   so |M - C(M)| <= |M|

    For a matrix that stays the same, rounds converge to its best approximation of rank r. What would not be fewer
    numbers as two factors, such as a vector, is sent whole. A column of Q with M Q = 0, as at first or after a round
    of zeros, is drawn anew: from zero a power iteration never comes back.
    Bytes: (m + n) r numbers of x's dtype a matrix. Both factors are sent; averaging factors within an all-reduce is
    another protocol. Cost: 6 m n r FLOPs.
    Reference: Vogels, Karimireddy, Jaggi (PowerSGD), NeurIPS 2019, arXiv 1905.13727.
    """

    rank: int = 2

    name: ClassVar[str] = "low-rank"

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.rank < 1:
            raise ValueError(f"rank = {self.rank} must be at least 1; 1 to 4 is usual")

    def init(self, x: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        """Q' (r, n) of each matrix: zero, so drawn in the first round; later with largest entries 1."""
        return tuple(x.new_zeros(self.rank, n) for _, m, n in self._matrices(layout) if m)

    def _encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        parts, warm, fresh = list[Array](), iter(state), list[Tensor]()
        sent = torch.empty_like(x)
        for columns, m, n in self._matrices(layout):
            # it reads in order, for the cache; a product alone takes longer than both
            self._check_finite(x[columns])
            if m:
                p, q = _factors(x[columns].view(m, n), next(warm), draw)
                self._check_finite(q.view(-1))
                largest = np.abs(q.numpy()).max(1, keepdims=True)
                fresh.append(q / torch.from_numpy(np.maximum(largest, np.finfo(largest.dtype).tiny)))
                parts += [p.numpy(), q.numpy()]
                _product(p, q, sent[columns])
            else:
                parts.append(x[columns].numpy())
                sent[columns] = x[columns]
        return Encoded(join(*parts), sent, tuple(fresh))

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """P Q' of each matrix, and what was sent whole."""
        x = torch.empty(layout.d, dtype=dtype)
        for columns, m, n in self._matrices(layout):
            numbers = (m + n) * self.rank if m else columns.stop - columns.start
            taken, packet = take(packet, numbers, numpy_type(dtype))
            factors = torch.from_numpy(taken)
            if m:
                _product(
                    factors[: m * self.rank].view(-1, m), factors[m * self.rank :].view(-1, n), x[columns]
                )
            else:
                x[columns] = factors
        end(packet)
        return x

    def _matrices(self, layout: Layout) -> Iterator[tuple[slice, int, int]]:
        """The columns of each span and its (m, n), or (0, 0) where it is sent whole."""
        for span in layout.spans:
            m, n = (span.shape[0], math.prod(span.shape[1:])) if span.shape else (1, 1)
            thin = (m + n) * self.rank < m * n
            yield span.columns, m if thin else 0, n if thin else 0


def _factors(matrix: Tensor, q: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
    """P' (r, m) with orthonormal rows, and P' M (r, n)."""
    p = q @ matrix.T  # the thin factor on the left: several times faster than matrix @ q.T
    lost = ~p.numpy().any(1, keepdims=True)
    if lost.any():
        q = torch.where(
            torch.from_numpy(lost), torch.from_numpy(draw.standard_normal(q.shape)).to(q.dtype), q
        )
        p = q @ matrix.T
    p = torch.linalg.qr(p.T).Q.T.contiguous()  # Householder: orthonormal also where rows are zero or alike
    return p, p @ matrix


def _product(p: Tensor, q: Tensor, out: Tensor) -> None:
    """P Q' of P' (r, m) and Q' (r, n) as out (m n,); no product of matrices: sums in one order on any machine."""
    if repaid(len(out)):
        loops.thin_product(p.numpy(), q.numpy(), out.view(-1, q.shape[1]).numpy())
        return
    first = 0
    for rows in rows_of(out, q.shape[1]):
        left = p[:, first : first + len(rows), None]
        torch.mul(left[0], q[0], out=rows)
        for j in range(1, len(q)):
            rows.add_(left[j] * q[j])
        first += len(rows)
