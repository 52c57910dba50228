"""QSGD: magnitudes rounded at random to a few levels of their bucket's norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import pad

from decentral.compression.bits import code_type, pack, packed_bytes, unpack
from decentral.compression.compressor import Compressor, Encoded
from decentral.compression.layout import Layout
from decentral.compression.packets import end, join, numpy_type, take


@dataclass(frozen=True)
class QSGD(Compressor):
    """Each bucket of n consecutive entries is rounded to s levels of its Euclidean norm, so that E C(x) = x.

        C(x)_i = |x| q_i / s,   q_i = round(s x_i / |x| + u_i),   u_i uniform in [-1/2, 1/2]
        E |x - C(x)|^2 <= min(n / s^2, sqrt(n) / s) |x|^2

    So s x_i / |x| is rounded up with probability equal to its fractional part. ``levels`` is s, ``bucket`` n (the last
    may be shorter; borders of layers do not matter). A bucket with norm below s times the smallest normal number is
    sent as zeros.
    Bytes: ceil(log2(2 s + 1)) bits an entry, in planes of ceil(d / 8) bytes, and one norm of x's dtype a bucket.
    Reference: Alistarh, Grubic, Li, Tomioka, Vojnovic, NeurIPS 2017, arXiv 1610.02132.
    """

    levels: int = 15
    bucket: int = 128

    name: ClassVar[str] = "qsgd"

    def __post_init__(self) -> None:
        if not 1 <= self.levels < 1 << 15:
            raise ValueError(f"levels = {self.levels} must be at least 1 and below 32768; 15 needs 5 bits")
        if self.bucket < 1:
            raise ValueError(f"bucket = {self.bucket} must be at least 1; 128 is usual")

    @property
    def bits(self) -> int:
        """Bits an entry: sign and level as one of 2 s + 1 codes."""
        return (2 * self.levels).bit_length()

    @property
    def variance_bound(self) -> float:
        """min(n / s^2, sqrt(n) / s), the bound of E |x - C(x)|^2 / |x|^2."""
        return min(self.bucket / self.levels**2, math.sqrt(self.bucket) / self.levels)

    def _encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        d, s = layout.d, self.levels
        rows = pad(x, (0, -d % self.bucket)).view(-1, self.bucket)
        norms = _norms(rows)
        self._check_finite(norms)
        norms[norms < s * torch.finfo(x.dtype).tiny] = 0
        scaled = rows.mul(norms.reciprocal().mul_(s).masked_fill_(norms == 0, 0)[:, None]).view(-1)[:d]
        # whole words are the fastest that numpy draws; each gives two numbers
        words = draw.integers(0, (1 << 64) - 1, -(-d // 2), np.uint64, endpoint=True)
        uniform = torch.from_numpy(words.view(np.int32)[:d]).to(x.dtype).mul_(2.0**-32)
        codes = scaled.add_(uniform).round_().clamp_(-s, s).add_(s)
        packed = pack(codes.numpy().astype(code_type(self.bits)), self.bits)
        return Encoded(join(norms.numpy(), packed), self._value(codes, norms), state)

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """The norm of the bucket times level / s."""
        norms, packet = take(packet, -(-layout.d // self.bucket), numpy_type(dtype))
        packed, packet = take(packet, packed_bytes(layout.d, self.bits), np.uint8)
        end(packet)
        codes = torch.from_numpy(unpack(packed, layout.d, self.bits)).to(dtype)
        return self._value(codes, torch.from_numpy(norms))

    def check_feedback(self) -> None:
        """The error must shrink: a variance bound below 1."""
        if self.variance_bound >= 1:
            raise ValueError(
                f"qsgd with levels = {self.levels}, bucket = {self.bucket} may enlarge the error "
                f"{self.variance_bound:.3g} times; for error feedback take more levels or a smaller bucket"
            )

    def _value(self, codes: Tensor, norms: Tensor) -> Tensor:
        """(code - s) norm / s; both sides round alike. Codes (d,) are consumed."""
        d = len(codes)
        steps = norms / self.levels
        codes.sub_(self.levels)
        whole = d // self.bucket * self.bucket
        codes[:whole].view(-1, self.bucket).mul_(steps[: d // self.bucket, None])
        codes[whole:].mul_(steps[-1])
        return codes


def _norms(rows: Tensor) -> Tensor:
    """Euclidean norms; again in float64, which is many times slower, where squares may have left float32's range."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    least = 1e3 * math.sqrt(rows.shape[1] * torch.finfo(rows.dtype).tiny)  # lost: 1e-6 of the sum at most
    unsure = ((norms < least) | norms.isinf()).nonzero()[:, 0]
    if len(unsure):
        norms[unsure] = torch.linalg.vector_norm(rows[unsure], dim=1, dtype=torch.float64).to(norms.dtype)
    return norms
