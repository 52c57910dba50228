"""What a user's script may get wrong when it hands over its optimizer, its method and its communicator."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer, SparseAdam

import topologies
from decentral.algorithms.traits import Method, maker_of, traits_of
from decentral.comm import Communicator
from decentral.errors import UserError
from decentral.rounds.script.inner_optimizer import is_plain
from decentral.rounds.trials.momentum import groups_have_momentum, momentum_twice
from decentral.rounds.trials.needs import unmet
from decentral.rounds.trials.stability import refuses
from topologies.wording import shown


def check_arguments(optimizer: object, method: object, comm: object, model: object, overlap: object) -> None:
    """Raise UserError for what is of the wrong kind, which it is on every rank."""
    check_optimizer(optimizer)
    check_method(method)
    if not isinstance(comm, Communicator):
        raise UserError(f"comm should be what decentral.join(...) gave, not {_a(comm)}")
    if comm.h != 1 or comm.n != comm.ranks:
        raise UserError(
            f"comm has {comm.n} workers on {comm.ranks} ranks, and a script is one; use decentral.join"
        )
    if not isinstance(model, nn.Module | None):
        raise UserError(
            f"model should be the torch.nn.Module whose parameters the optimizer has, not {_a(model)}; of several "
            "models make one by torch.nn.ModuleList"
        )
    if not isinstance(overlap, bool):
        raise UserError(f"overlap should be True or False, not {_a(overlap)}")
    assert isinstance(optimizer, Optimizer)
    if (own := traits_of(method).optimizer) and not is_plain(optimizer):
        raise UserError(
            f"{type(method).__name__} has an {own} of its own; give it torch.optim.SGD without momentum"
        )


def check_method(method: object) -> None:
    """Raise UserError if it is no method of rounds."""
    if isinstance(method, type) or not (hasattr(method, "init") and hasattr(method, "step")):
        raise UserError(f"method should be one such as decentral.algorithms.DSGD(), not {_a(method)}")


def check_optimizer(optimizer: object) -> None:
    """Raise UserError if it is none whose ``step()`` goes from x and its gradient to another x."""
    if not isinstance(optimizer, Optimizer) or hasattr(optimizer, "method_state"):
        raise UserError(
            f"the first argument should be a torch optimizer such as torch.optim.SGD(...), not {_a(optimizer)}"
        )
    closure = signature(optimizer.step).parameters.get("closure")
    if isinstance(optimizer, LBFGS | SparseAdam) or (closure and closure.default is Parameter.empty):
        raise UserError(
            f"{type(optimizer).__name__} does not take one dense step a gradient; use SGD, Adam or AdamW"
        )
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise UserError(
            f"{type(optimizer).__name__} is to be differentiable, and a round is not; leave differentiable out"
        )


def check_mixing(method: Method[Any], schedule: topologies.Schedule) -> None:
    """Raise UserError if the method needs what the schedule is not."""
    name = type(method).__name__
    if schedule.n == 1:
        return
    if maker_of(method) and schedule.period is not None:
        raise UserError(
            f"{name} makes its own mixing matrices of a graph; use decentral.join(..., method=method)"
        )
    missing = unmet(method, schedule)
    if missing is not None:
        remedy = missing[1].replace("topology.name = ", "decentral.join of a ").replace("topology.", "")
        raise UserError(f"{name} needs {missing[0]}; {remedy}")


def divergence(method: Method[Any], schedule: topologies.Schedule) -> str:
    """A warning where the method is bound to diverge on the schedule, whatever the learning rate; else ""."""
    name, diverges = type(method).__name__, refuses(method, schedule) if schedule.n > 1 else None
    if diverges is None:
        return ""
    growth, where, remedy = diverges
    remedy = remedy.replace("topology.weights", "weights")
    if growth != growth:  # not a number: something that it needs
        return f"{name} needs {where}; {remedy}"
    return (
        f"{name} diverges on this mixing{where}: differences between workers grow by {growth:.4g} a round, whatever "
        f"the learning rate ({method}); {remedy}"
    )


def doubled_momentum(optimizer: Optimizer, method: Method[Any]) -> str:
    """A warning where both the torch optimizer and the method have momentum; else ""."""
    if not groups_have_momentum(optimizer.param_groups):
        return ""
    return momentum_twice(method, type(optimizer).__name__)


def _a(value: object) -> str:
    return shown(value) if isinstance(value, str | int | float | None | type) else f"a {type(value).__name__}"
