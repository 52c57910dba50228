"""Compressors of flat vectors, with the bytes that would really travel; this table is all that knows them by name.

A compressor is a frozen dataclass with ``init(x, layout) -> state``, ``encode(x, state, layout, draw) -> (packet, sent,
state)`` and ``decode(packet, layout, dtype, draw) -> sent``, the same bits; its fields are its keys in TOML.
"""

from collections.abc import Callable

from decentral.compression.adacomp import AdaComp
from decentral.compression.compressor import Compressor, Encoded
from decentral.compression.error_feedback import ErrorFeedback, MomentumCorrection
from decentral.compression.layout import Layout, Span
from decentral.compression.low_rank import LowRank
from decentral.compression.qsgd import QSGD
from decentral.compression.random_k import RandomK
from decentral.compression.sign import Sign
from decentral.compression.top_k import TopK

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
