"""What is refused when a method's ``init`` is given models and a communicator, as the command line refuses a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import topologies
from decentral.comm.needs import unmet_of
from decentral.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer

_MOST_MODES, _MOST_TURNS = 512, 128
_WAIVE = "check=False of the communicator waives this"


def refuse_models(method: object, x: Tensor, rows: int, whose: str) -> None:
    """Raise UserError unless x is (rows, d) in floating point."""
    name = type(method).__name__
    if x.dim() != 2 or x.shape[0] != rows:
        raise UserError(f"{name}.init got x of shape {tuple(x.shape)}; {whose}")
    if not x.dtype.is_floating_point:
        raise UserError(f"{name}.init got x of {x.dtype}; models are floating-point numbers: use x.float()")


def refuse_mixing(method: Any, schedule: topologies.Schedule, trial: Mixer) -> None:
    """Raise UserError where the method needs what the mixing is not, or is bound to diverge on it.

    ``trial``: all workers in this process. Growth is looked for up to 512 workers, where W changes up to 128.
    """
    name, traits = type(method).__name__, getattr(method, "traits", None)
    missing = unmet_of(getattr(traits, "needs", ("rows",)), schedule)
    if missing is not None:
        raise UserError(f"{name} needs {missing[0]}; {_in_python(missing[1])}; {_WAIVE}")
    most = _MOST_MODES if schedule.period == 1 else _MOST_TURNS
    if schedule.n > most or not getattr(traits, "linear", True):
        return
    from decentral.comm.growth import divergence  # here: it needs scipy's eigenvalues

    grows = divergence(method, getattr(traits, "least_eigenvalue", -float("inf")), trial, schedule)
    if grows is None:
        return
    growth, where, remedy = grows
    if growth != growth:  # not a number: something that it needs
        raise UserError(f"{name} needs {where}; {_in_python(remedy)}; {_WAIVE}")
    raise UserError(
        f"{name} diverges on this mixing{where}: differences between workers grow by {growth:.4g} a round; "
        f"{_in_python(remedy)}; {_WAIVE}"
    )


def _in_python(remedy: str) -> str:
    """A remedy for a file, as one for Python."""
    return remedy.replace("topology.weights = ", "weights ").replace(
        "topology.name = ", "topologies such as "
    )
