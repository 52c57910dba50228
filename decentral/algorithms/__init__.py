"""Data-parallel methods: one file, one paper; this table is all that knows them by name.

A method is a frozen dataclass with ``init(x, comm) -> state`` and
``step(x, state, g, comm, lr) -> (x, state)``; its fields are its keys under ``[algorithm]`` in TOML.
x and state are consumed: use what comes back. Nothing here imports torch.
"""

from typing import Any

from decentral.algorithms.decentlam import DecentLaM
from decentral.algorithms.dmsgd import DmSGD
from decentral.algorithms.dsgd import DSGD
from decentral.algorithms.pmsgd import PmSGD

ALGORITHMS: dict[str, type[Any]] = {
    "pmsgd": PmSGD,
    "dsgd": DSGD,
    "dmsgd": DmSGD,
    "decentlam": DecentLaM,
}

__all__ = ["ALGORITHMS", "DSGD", "DecentLaM", "DmSGD", "PmSGD"]
