"""``[stages]``: how many, where the network is cut, and what the clock goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from decentral.errors import UserError
from decentral.problems.sizes import MOST_LAYERS
from topologies.wording import shown


@dataclass(frozen=True)
class Stages:
    """How many stages, where the network is cut, and what the virtual clock goes by; ``[stages]`` in TOML.

    ``cut``: "even" (by number of layers), "balanced" (by FLOPs), or the layers where stages 1, 2, ... begin.
    ``costs``: "flops", at ``flops_per_s``, is the same on every machine; "measured" times each pass first and writes
    the table down, and the clock goes by the table. ``timeout_s``: after so long without progress over MPI the
    stages are asked who waits for whom. ``heads``: name of a local head or loss -> its parameters, as in
    ``[stages.heads.conv]``.
    """

    count: int = 2
    cut: Literal["even", "balanced"] | list[int] = "even"
    costs: Literal["flops", "measured"] = "flops"
    flops_per_s: float = 1e10
    timeout_s: float = 60.0
    heads: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_LAYERS + 1:
            raise UserError(f"stages.count = {shown(self.count)} must be from 1 to {MOST_LAYERS + 1:,}")
        for key in ("flops_per_s", "timeout_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise UserError(f"stages.{key} = {shown(getattr(self, key))} must be positive and finite")
        if isinstance(self.cut, list) and len(self.cut) != self.count - 1:
            raise UserError(
                f"stages.cut = {shown(self.cut)} begins {len(self.cut)} stages after the first, but stages.count = "
                f"{self.count}; give {self.count - 1} layers"
            )
