"""Compressors of flat vectors, with the bytes that would really travel; this table is all that knows them by name.

A compressor is a frozen dataclass with ``init(x, layout) -> state``, ``encode(x, state, layout, draw) -> (packet, sent,
state)`` and ``decode(packet, layout, dtype, draw) -> sent``, the same bits; its fields are its keys in TOML.
"""

from collections.abc import Callable

from decentral.comm.compression.adacomp import AdaComp
from decentral.comm.compression.compressor import Compressor, Encoded
from decentral.comm.compression.error_feedback import ErrorFeedback, MomentumCorrection
from decentral.comm.compression.low_rank import LowRank
from decentral.comm.compression.qsgd import QSGD
from decentral.comm.compression.random_k import RandomK
from decentral.comm.compression.sign import Sign
from decentral.comm.compression.top_k import TopK
from decentral.comm.layout import Layout, Span

COMPRESSORS: dict[str, type[Compressor]] = {
    compressor.name: compressor for compressor in (TopK, RandomK, QSGD, Sign, AdaComp, LowRank)
}


def dgc(fraction: float = 0.001, momentum: float = 0.9) -> MomentumCorrection:
    """Deep gradient compression: top-k of gradients whose momentum is made before sending."""
    return MomentumCorrection(TopK(fraction), momentum)


LINKS: dict[str, Callable[..., Compressor]] = {**COMPRESSORS, "dgc": dgc}
"""By the name in ``[compression]``."""

__all__ = [
    "COMPRESSORS", "LINKS", "QSGD", "AdaComp", "Compressor", "Encoded", "ErrorFeedback", "Layout", "LowRank",
    "MomentumCorrection", "RandomK", "Sign", "Span", "TopK", "dgc",
]  # fmt: skip
