"""QSGD: magnitudes rounded at random to a few levels of their bucket's norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from decentral.comm.compression import loops
from decentral.comm.compression.bits import code_type, pack, packed_bytes, unpack
from decentral.comm.compression.blocks import rows_of
from decentral.comm.compression.compressor import Compressor, Encoded
from decentral.comm.compression.noise import Noise
from decentral.comm.compression.packets import Array, end, join, numpy_type, take
from decentral.comm.layout import Layout
from decentral.kernels import repaid
from topologies.settings import plain_settings

_SHORT = 1 << 13


@dataclass(frozen=True)
class QSGD(Compressor):
    """Each bucket of n consecutive entries is rounded to s levels of its Euclidean norm, so that E C(x) = x.

        C(x)_i = |x| q_i / s,   q_i = floor(s x_i / |x| + u_i),   u_i uniform in [0, 1)
        E |x - C(x)|^2 <= min(n / s^2, sqrt(n) / s) |x|^2

    So s x_i / |x| is rounded up with probability equal to its fractional part. Up to rounding: |E C(x)_i - x_i| is at
    most 10 eps |x| with the dtype's eps. Any three of the u_i are independent: :mod:`decentral.comm.compression.noise`.
    ``levels`` is s, ``bucket`` n (the last may be shorter; borders of layers do not matter). A bucket with norm below s
    times the smallest normal number is sent as zeros.
    Bytes: ceil(log2(2 s + 1)) bits an entry, as in :mod:`decentral.comm.compression.bits`, d filled up to whole eights,
    and one norm of x's dtype a bucket.
    Reference: Alistarh, Grubic, Li, Tomioka, Vojnovic, NeurIPS 2017, arXiv 1610.02132.
    """

    levels: int = 15
    bucket: int = 128

    name: ClassVar[str] = "qsgd"

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 1 <= self.levels < 1 << 15:
            raise ValueError(f"levels = {self.levels} must be at least 1 and below 32768; 15 needs 5 bits")
        if self.bucket < 1:
            raise ValueError(f"bucket = {self.bucket} must be at least 1; 128 is usual")

    @property
    def unbiased(self) -> bool:
        """Rounding is up or down at random."""
        return True

    @property
    def bits(self) -> int:
        """Bits an entry: sign and level as one of 2 s + 1 codes."""
        return (2 * self.levels).bit_length()

    @property
    def variance_bound(self) -> float:
        """min(n / s^2, sqrt(n) / s), the bound of E |x - C(x)|^2 / |x|^2."""
        return min(self.bucket / self.levels**2, math.sqrt(self.bucket) / self.levels)

    def _encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        norms = np.concatenate([_norms(rows.numpy()) for rows in rows_of(x, self.bucket, layout.d)])
        if not np.isfinite(norms).all():
            self._check_finite(x)
            self._check_finite(torch.from_numpy(norms))
        norms[norms < self.levels * np.finfo(norms.dtype).tiny] = 0
        # a little below s / |x|, so that rounding lifts nothing above s
        most = norms.dtype.type(self.levels * (1 - 4 * np.finfo(norms.dtype).eps))
        scales = np.divide(most, norms, out=np.zeros_like(norms), where=norms > 0)
        noise = Noise(layout.d, self._zero, norms.dtype, draw)
        if repaid(layout.d) and _adds_products_exactly():
            codes, sent = self._rounded(x, noise, scales, norms)
            return Encoded(join(norms, pack(codes, self.bits)), sent, state)
        codes = self._codes(x, noise, torch.from_numpy(scales))
        packed = pack(codes, self.bits)
        return Encoded(join(norms, packed), self._values(codes, torch.from_numpy(norms)), state)

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """The norm of the bucket times level / s."""
        norms, packet = take(packet, -(-layout.d // self.bucket), numpy_type(dtype))
        packed, packet = take(packet, packed_bytes(layout.d, self.bits), np.uint8)
        end(packet)
        return self._values(unpack(packed, layout.d, self.bits), torch.from_numpy(norms))

    def check_feedback(self) -> None:
        """The error must shrink: a variance bound below 1."""
        if self.variance_bound >= 1:
            raise ValueError(
                f"qsgd with levels = {self.levels}, bucket = {self.bucket} may enlarge the error "
                f"{self.variance_bound:.3g} times; for error feedback take more levels or a smaller bucket"
            )

    @property
    def _zero(self) -> int:
        """The code of level 0: the power of two above s."""
        return 1 << self.levels.bit_length()

    def _codes(self, x: Tensor, noise: Noise, scales: Tensor) -> Array:
        """zero + q_i: (d,)."""
        codes, first = np.empty(len(x), code_type(self.bits)), 0
        for rows in rows_of(x, self.bucket):
            start, n = first * self.bucket, rows.numel()
            levels = (
                noise.of(start, n).view(rows.shape).addcmul_(rows, scales[first : first + len(rows), None])
            )
            np.copyto(codes[start : start + n], levels.view(-1).numpy(), casting="unsafe")  # rounds down
            first += len(rows)
        return codes

    def _rounded(self, x: Tensor, noise: Noise, scales: Array, norms: Array) -> tuple[Array, Tensor]:
        """Codes and values in one pass."""
        codes, sent = np.empty(len(x), code_type(self.bits)), torch.empty_like(x)
        steps, zero = self._steps(torch.from_numpy(norms)).numpy(), norms.dtype.type(self._zero)
        loops.round_levels(
            x.numpy(), noise.table, noise.passages, self.bucket, scales, steps, zero, codes, sent.numpy()
        )
        return codes, sent

    def _steps(self, norms: Tensor) -> Tensor:
        return norms / self.levels

    def _values(self, codes: Array, norms: Tensor) -> Tensor:
        """(code - zero) norm / s; both sides round alike. Codes (d,) are consumed."""
        codes -= codes.dtype.type(self._zero)
        x = torch.from_numpy(codes.view(np.dtype(f"i{codes.itemsize}"))).to(norms.dtype)
        steps, first = self._steps(norms), 0
        for rows in rows_of(x, self.bucket, len(x)):
            rows.mul_(steps[first : first + len(rows), None])
            first += len(rows)
        return x


@cache
def _adds_products_exactly() -> bool:
    """Whether torch rounds once in ``addcmul``, as kernels do, and not product and sum."""
    eps = 2.0**-13
    a, b = torch.full((64,), 1 + eps), torch.full((64,), -1.0)
    return bool((torch.addcmul(b, a, a) != 2 * eps).all())


def _norms(rows: Array) -> Array:
    """Euclidean norms; again in float64, which is many times slower, where squares may have left float32's range."""
    with np.errstate(over="ignore", invalid="ignore"):
        # a longer product BLAS shares out among threads of its own, whose number shows in the last bits
        short = rows.shape[1] <= _SHORT
        norms: Array = np.sqrt(np.vecdot(rows, rows) if short else np.square(rows).sum(1))
        least = 1e3 * math.sqrt(rows.shape[1] * np.finfo(rows.dtype).tiny)  # lost: 1e-6 of the sum at most
        if not (norms.min() >= least and norms.max() < math.inf):
            unsure = (norms < least) | np.isinf(norms)
            norms[unsure] = np.sqrt(np.square(rows[unsure], dtype=np.float64).sum(1))
    return norms
