"""What a method's ``init`` does first: it asks the communicator whether models and mixing are what the method needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


def admit(method: Any, x: Tensor, comm: Mixer | None) -> None:
    """Raise ValueError unless x is (h, d) of the communicator's h workers, and its mixing suits the method.

    A stand-in without such a check is taken as it is, and so is None, which is enough for a method that looks at
    neither. ``check=False`` of a communicator waives what is asked of the mixing.
    """
    ask = getattr(comm, "admit", None)
    if ask is not None:
        ask(method, x)
