"""A testbed and simulator for training neural networks without a centre.

In a script of one's own, under ``mpirun`` or alone:

    import decentral as dc
    comm = dc.join("ring")
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = dc.Decentralized(sgd, method=dc.algorithms.DecentLaM(0.9), comm=comm)

Importing this package imports nothing else; each name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decentral import algorithms
    from decentral.errors import UserError
    from decentral.rounds.script.join import join
    from decentral.rounds.script.optimizer import Decentralized

__all__ = ["Decentralized", "UserError", "algorithms", "join"]

_HOMES = {
    "Decentralized": "decentral.rounds.script.optimizer",
    "UserError": "decentral.errors",
    "join": "decentral.rounds.script.join",
}


def __getattr__(name: str) -> Any:
    if name == "algorithms":
        return importlib.import_module("decentral.algorithms")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
