"""What top-k and random-k have in common: k of d entries are sent as they are, the others not at all."""

from __future__ import annotations

from dataclasses import dataclass

from decentral.comm.compression.compressor import Compressor
from topologies.settings import plain_settings


@dataclass(frozen=True)
class Sparsifier(Compressor):
    """Sends k = max(1, round(fraction d)) entries; 0 < fraction <= 1."""

    fraction: float = 0.01

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction = {self.fraction} must be above 0 and at most 1; 0.01 sends 1 %")

    def kept(self, d: int) -> int:
        """K, the entries that are sent of d."""
        return max(1, round(self.fraction * d))
