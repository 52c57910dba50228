"""AdaComp: in each bin what is about to exceed the largest residue, as one sign and a scale for each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from decentral.compression.bins import WIDEST, bin_codes, take_bins
from decentral.compression.compressor import Compressor, Encoded
from decentral.compression.layout import Layout, Span
from decentral.compression.packets import Array, end, join, numpy_type, take


@dataclass(frozen=True)
class AdaComp(Compressor):
    """Adaptive residual compression of gradients dW; the state is the residue R (d,), zero at first.

        G = R + dW;   H = G + dW
        s = mean over the span's bins of max |G| in the bin
        send i iff |H_i| >= max |G| of its bin;   Gq_i = sign(G_i) s;   R = G - Gq

    In bins of ``convolution_bin`` entries for convolutions and ``dense_bin`` for all else; the last of a span may be
    shorter. A bin with max |G| = 0 sends nothing, nor does an entry with G_i = 0, whose Gq_i would be 0.
    The number sent adapts: bytes differ from round to round and are most in the first, when R = 0.

    Bytes: for each span a scale of x's dtype and a code for each entry sent, of 8 bits in bins below 64 and of 16 in
    others, as in :mod:`decentral.compression.bins`. For gradients, not for parameters themselves.
    Reference: Chen et al., AAAI 2018, arXiv 1712.02679.
    """

    convolution_bin: int = 50
    dense_bin: int = 500

    name: ClassVar[str] = "adacomp"

    def __post_init__(self) -> None:
        for key in ("convolution_bin", "dense_bin"):
            if not 1 <= getattr(self, key) <= WIDEST:
                raise ValueError(
                    f"{key} = {getattr(self, key)} must be 1 to {WIDEST}, a place of 14 bits; 50 or 500 is usual"
                )

    def init(self, x: Tensor, layout: Layout) -> Tensor:
        """No residue yet."""
        return torch.zeros_like(x)

    def _encode(self, x: Tensor, state: Tensor, layout: Layout, draw: Generator) -> Encoded:
        total = state.add_(x)
        sizes, ahead, sent = total.abs(), (total + x).abs_(), torch.zeros_like(x)
        parts = list[Array]()
        for span in layout.spans:
            one, width = slice(span.start, span.stop), self._width(span)
            places, scale = _selected(sizes[one], ahead[one], width)
            self._check_finite(scale)
            values = np.copysign(scale.numpy(), total[one].numpy()[places])
            sent[one].numpy()[places] = values
            total[one].numpy()[places] -= values
            parts += [scale.numpy(), bin_codes(places, np.signbit(values), span.stop - span.start, width)]
        return Encoded(join(*parts), sent, total)

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """Gq: plus or minus the span's scale where something was sent, zero elsewhere."""
        x = torch.zeros(layout.d, dtype=dtype)
        for span in layout.spans:
            scale, packet = take(packet, 1, numpy_type(dtype))
            places, negative, packet = take_bins(packet, span.stop - span.start, self._width(span))
            x[span.start : span.stop].numpy()[places] = np.where(negative, -scale, scale)
        end(packet)
        return x

    def check_feedback(self) -> None:
        """Residues of residues would never be sent."""
        raise ValueError("adacomp keeps a residue itself; use it without error feedback")

    def _width(self, span: Span) -> int:
        return self.convolution_bin if span.kind == "convolution" else self.dense_bin


def _selected(sizes: Tensor, ahead: Tensor, width: int) -> tuple[Array, Tensor]:
    """Places in a span that are sent, ascending, and the scale (1,), from |G| and |H| (n,) of the span."""
    whole = len(sizes) // width * width
    largest = sizes[:whole].view(-1, width).amax(1)
    if whole < len(sizes):
        largest = torch.cat([largest, sizes[whole:].max().view(1)])
    least = largest.numpy()
    marks = np.empty(len(sizes), np.bool_)
    rows = marks[:whole].reshape(-1, width)
    np.greater_equal(ahead[:whole].view(-1, width).numpy(), least[: len(rows), None], out=rows)
    np.greater_equal(ahead[whole:].numpy(), least[-1], out=marks[whole:])
    places = np.flatnonzero(marks)
    # without this a bin of zeros would be sent as a whole
    return places[sizes.numpy()[places] > 0], largest.mean().view(1)
