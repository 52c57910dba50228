"""Error feedback: what was not sent is added to what is sent next; and DGC's momentum correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from numpy.random import Generator
from torch import Tensor

from decentral.comm.compression.compressor import Compressor, Encoded
from decentral.comm.compression.sparsifier import Sparsifier
from decentral.comm.layout import Layout
from topologies.settings import plain_settings


@dataclass(frozen=True)
class _Around(Compressor):
    """A compressor within, whose packets these are."""

    compressor: Compressor

    @property
    def keeps_residue(self) -> bool:
        """It is what this is for."""
        return True

    def decode(self, packet: Tensor, layout: Layout, dtype: torch.dtype, draw: Generator) -> Tensor:
        """What C decodes."""
        return self.compressor.decode(packet, layout, dtype, draw)

    def check_feedback(self) -> None:
        """Errors of errors would never be sent."""
        raise ValueError(f"{self.name} has error feedback already; give it the compressor itself")


class Feedback(NamedTuple):
    """What was not sent so far, e (d,), and the compressor's own state."""

    e: Tensor
    inner: Any


@dataclass(frozen=True)
class ErrorFeedback(_Around):
    """Error feedback around a compressor C that shrinks what it leaves out.

        e = e + x;   send C(e);   e = e - C(e)

    All that was ever given is sent or in e. Where x does not contain the learning rate (the gradients of PmSGD), a rate
    that changes rescales old errors.
    Bytes: those of C. Reference: Karimireddy, Rebjock, Stich, Jaggi, ICML 2019, arXiv 1901.09847.
    """

    name: ClassVar[str] = "error-feedback"

    def __post_init__(self) -> None:
        plain_settings(self)
        self.compressor.check_feedback()

    def init(self, x: Tensor, layout: Layout) -> Feedback:
        """No error yet."""
        return Feedback(torch.zeros_like(x), self.compressor.init(x, layout))

    def _encode(self, x: Tensor, state: Feedback, layout: Layout, draw: Generator) -> Encoded:
        self._check_finite(x)
        e = state.e.add_(x)
        packet, sent, inner = self.compressor.encode(e, state.inner, layout, draw)
        return Encoded(packet, sent, Feedback(e.sub_(sent), inner))


class Corrected(NamedTuple):
    """Momentum u (d,), what was not sent so far v (d,), and the compressor's own state."""

    u: Tensor
    v: Tensor
    inner: Any


@dataclass(frozen=True)
class MomentumCorrection(_Around):
    """DGC's error feedback around top-k or random-k, of gradients x whose momentum is made before sending.

        u = momentum u + x;   v = v + u;   send C(v);   u_i = v_i = 0 where v_i is sent

    Zeroing u as well keeps what was sent late from being pushed on in an old direction. The receiver applies what
    comes as an ordinary step, without momentum.
    Bytes: those of C. Reference: Lin, Han, Mao, Wang, Dally (DGC), ICLR 2018, arXiv 1712.01887.
    """

    momentum: float = 0.9

    name: ClassVar[str] = "momentum-correction"

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum} must be at least 0 and below 1; 0.9 is usual")
        if not isinstance(self.compressor, Sparsifier):
            raise ValueError(
                f"{self.compressor.name} does not send entries as they are; take top-k or random-k"
            )
        self.compressor.check_feedback()

    def init(self, x: Tensor, layout: Layout) -> Corrected:
        """No momentum, nothing left over."""
        return Corrected(torch.zeros_like(x), torch.zeros_like(x), self.compressor.init(x, layout))

    def _encode(self, x: Tensor, state: Corrected, layout: Layout, draw: Generator) -> Encoded:
        self._check_finite(x)
        u = state.u.mul_(self.momentum).add_(x)
        v = state.v.add_(u)
        packet, sent, inner = self.compressor.encode(v, state.inner, layout, draw)
        u.masked_fill_(sent != 0, 0)
        return Encoded(packet, sent, Corrected(u, v.sub_(sent), inner))
