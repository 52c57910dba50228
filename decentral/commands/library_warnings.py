"""What libraries warn of, at the command line."""

from __future__ import annotations

import sys
import warnings

_LIBRARIES = (
    "matplotlib", "networkx", "numpy", "scipy", "sklearn", "torch", "functorch", "cvxpy", "tensorboard"
)  # fmt: skip


def keep_back_warnings() -> None:
    """What libraries warn of is said in words of our own or means nothing here; a user's own modules may warn.

    Where somebody has asked for warnings, or made them errors as tests do, they come.
    """
    if sys.warnoptions or any(action == "error" for action, *_ in warnings.filters):
        return
    for package in ("decentral", "topologies", *_LIBRARIES):
        warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
