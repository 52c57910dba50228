"""Compressors of flat vectors, with the bytes that would really travel; this table is all that knows them by name.

A compressor is a frozen dataclass with ``init(x, layout) -> state``, ``encode(x, state, layout, draw) -> (packet, sent,
state)`` and ``decode(packet, layout, dtype, draw) -> sent``, the same bits; its fields are its keys in TOML.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from decentral.comm.compression.compressor import Compressor, Encoded
from decentral.comm.compression.error_feedback import ErrorFeedback, MomentumCorrection
from decentral.comm.compression.top_k import TopK
from decentral.comm.layout import Layout, Span
from topologies.places import all_loaded

COMPRESSORS: dict[str, type[Compressor]] = all_loaded(
    {
        "top-k": "decentral.comm.compression.top_k:TopK",
        "random-k": "decentral.comm.compression.random_k:RandomK",
        "qsgd": "decentral.comm.compression.qsgd:QSGD",
        "sign": "decentral.comm.compression.sign:Sign",
        "adacomp": "decentral.comm.compression.adacomp:AdaComp",
        "low-rank": "decentral.comm.compression.low_rank:LowRank",
    }
)
globals().update({compressor.__name__: compressor for compressor in COMPRESSORS.values()})


def dgc(fraction: float = 0.001, momentum: float = 0.9) -> MomentumCorrection:
    """Deep gradient compression: top-k of gradients whose momentum is made before sending."""
    return MomentumCorrection(TopK(fraction), momentum)


LINKS: dict[str, Callable[..., Compressor]] = {**COMPRESSORS, "dgc": dgc}
"""By the name in ``[compression]``."""

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A compressor's class can be imported from here."""


__all__ = [
    "COMPRESSORS", "LINKS", "Compressor", "Encoded", "ErrorFeedback", "Layout", "MomentumCorrection", "Span", "TopK",
    "dgc",
]  # fmt: skip
