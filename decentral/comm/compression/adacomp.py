"""AdaComp: in each bin what is about to exceed the largest residue, as one sign and a scale for each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from decentral.comm.compression import loops
from decentral.comm.compression.bins import WIDEST, bin_codes, code_type, codes_of, take_bins
from decentral.comm.compression.blocks import rows_of
from decentral.comm.compression.compressor import Compressor, Encoded
from decentral.comm.compression.marks import positions_of
from decentral.comm.compression.packets import Array, end, join, numpy_type, take
from decentral.comm.layout import Layout, Span
from decentral.kernels import repaid
from topologies.settings import plain_settings


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
    others, as in :mod:`decentral.comm.compression.bins`. For gradients, not for parameters themselves.
    Reference: Chen et al., AAAI 2018, arXiv 1712.02679.
    """

    convolution_bin: int = 50
    dense_bin: int = 500

    name: ClassVar[str] = "adacomp"
    tells_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        plain_settings(self)
        for key in ("convolution_bin", "dense_bin"):
            if not 1 <= getattr(self, key) <= WIDEST:
                raise ValueError(
                    f"{key} = {getattr(self, key)} must be 1 to {WIDEST}, a place of 14 bits; 50 or 500 is usual"
                )

    def init(self, x: Tensor, layout: Layout) -> Tensor:
        """No residue yet."""
        return torch.zeros_like(x)

    def _encode(self, x: Tensor, state: Tensor, layout: Layout, draw: Generator) -> Encoded:
        sent, parts = torch.empty_like(x), list[Array]()
        for span in layout.spans:
            one, width = span.columns, self._width(span)
            marks, largest = _selected(x[one], state[one], width)
            scale = largest.mean().view(1).numpy()
            if not np.isfinite(scale):
                self._check_finite(x)
                self._check_finite(torch.from_numpy(scale))
            codes = _sent(marks, scale, width, state[one].numpy(), sent[one].numpy())
            parts += [scale, codes]
        return Encoded(join(*parts), sent, state)

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """Gq: plus or minus the span's scale where something was sent, zero elsewhere."""
        x = torch.zeros(layout.d, dtype=dtype)
        for span in layout.spans:
            scale, packet = take(packet, 1, numpy_type(dtype))
            places, negative, packet = take_bins(packet, span.size, self._width(span))
            x[span.columns].numpy()[places] = np.where(negative, -scale, scale)
        end(packet)
        return x

    def bytes_by_kind(self, packet: Tensor, layout: Layout, dtype: torch.dtype) -> dict[str, int]:
        """Scales and codes of the spans of each kind."""
        found: dict[str, int] = {}
        for span in layout.spans:
            _, rest = codes_of(packet[dtype.itemsize :], span.size, self._width(span))
            found[span.kind] = found.get(span.kind, 0) + len(packet) - len(rest)
            packet = rest
        return found

    @property
    def keeps_residue(self) -> bool:
        """R is what was left out."""
        return True

    def check_feedback(self) -> None:
        """Residues of residues would never be sent."""
        raise ValueError("adacomp keeps a residue itself; use it without error feedback")

    def _width(self, span: Span) -> int:
        return self.convolution_bin if span.kind == "convolution" else self.dense_bin


def _selected(x: Tensor, state: Tensor, width: int) -> tuple[Array, Tensor]:
    """Whether |H| >= max |G| of the bin, bool (n,), and max |G| of each bin; the state (n,) becomes G.

    Filled up to whole eights, none of which is.
    """
    n, bits = len(x), {4: torch.int32, 8: torch.int64}[x.element_size()]
    marks, largest, start = np.empty(-(-n // 8) * 8, np.bool_), x.new_empty(-(-n // width)), 0
    marks[n:] = False
    if repaid(n):
        loops.mark_ahead(x.numpy(), state.numpy(), state.view(bits).numpy(), width, largest.numpy(), marks)
        return marks, largest
    for change, total in zip(rows_of(x, width), rows_of(state, width), strict=True):
        sizes = total.add_(change).abs()
        most = largest[start // width : start // width + len(total)]
        # numbers >= 0 are in the order of their bits, of which torch finds the largest twice as fast
        torch.amax(sizes.view(bits), 1, out=most.view(bits))
        ahead = torch.add(total, change).abs_()
        stop = start + total.numel()
        np.greater_equal(
            ahead.numpy(), sizes.copy_(most[:, None]).numpy(), out=marks[start:stop].reshape(total.shape)
        )
        start = stop
    return marks, largest


def _sent(marks: Array, scale: Array, width: int, total: Array, sent: Array) -> Array:
    """Codes of Gq at the marks, which is taken out of G = ``total`` (n,); ``sent`` (n,) becomes Gq."""
    if repaid(len(total)):
        codes = np.empty(len(total) - (-len(total) // width), code_type(width))
        return codes[: loops.send_marked(marks, scale[0], width, total, sent, codes)]
    places = positions_of(marks)
    taken = total.take(places)
    if not taken.all():  # without this a bin of zeros would be sent as a whole
        places, taken = places[taken != 0], taken[taken != 0]
    values = np.copysign(scale, taken)
    sent[:] = 0
    sent[places] = values
    total[places] = taken - values
    return bin_codes(places, np.signbit(values), len(total), width)
