"""Sign: one bit an entry and the mean magnitude of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from decentral.compression.bits import packed_bytes
from decentral.compression.compressor import Compressor, Encoded
from decentral.compression.layout import Layout
from decentral.compression.packets import end, join, numpy_type, take


@dataclass(frozen=True)
class Sign(Compressor):
    """In each span of n entries C(x)_i = (|x|_1 / n) sign(x_i); the sign bit decides, so sign(0) = 1, sign(-0.) = -1.

        |x - C(x)|^2 = |x|^2 - |x|_1^2 / n   in each span, at most (1 - 1/n) |x|^2

    Bytes: ceil(d / 8), and one number of x's dtype for each span.
    Reference: Karimireddy, Rebjock, Stich, Jaggi, ICML 2019, arXiv 1901.09847.
    """

    name: ClassVar[str] = "sign"

    def _encode(self, x: Tensor, state: Any, layout: Layout, draw: Generator) -> Encoded:
        scales = torch.stack([x[span.start : span.stop].abs().mean() for span in layout.spans])
        self._check_finite(scales)
        sent = torch.empty_like(x)
        for span, scale in zip(layout.spans, scales, strict=True):
            torch.copysign(scale, x[span.start : span.stop], out=sent[span.start : span.stop])
        return Encoded(join(scales.numpy(), np.packbits(np.signbit(x.numpy()))), sent, state)

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """Plus or minus the span's scale."""
        scales, packet = take(packet, len(layout.spans), numpy_type(dtype))
        packed, packet = take(packet, packed_bytes(layout.d, 1), np.uint8)
        end(packet)
        negative = np.unpackbits(packed, count=layout.d)
        x = torch.from_numpy(negative).to(dtype).mul_(-2).add_(1)
        for span, scale in zip(layout.spans, scales, strict=True):
            x[span.start : span.stop].mul_(float(scale))
        return x
