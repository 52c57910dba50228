"""What a user's script may get wrong when it hands over its optimizer, its method and its communicator."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import LBFGS, SGD, Optimizer, SparseAdam

import topologies
from decentral.algorithms.traits import Method, maker_of, traits_of
from decentral.comm import Communicator
from decentral.errors import UserError
from decentral.rounds.trials.momentum import groups_have_momentum, momentum_twice
from decentral.rounds.trials.needs import unmet
from decentral.rounds.trials.stability import refuses


def check_arguments(optimizer: object, method: object, comm: object, model: object) -> None:
    """Raise UserError for what is of the wrong kind, which it is on every rank."""
    if not isinstance(optimizer, Optimizer) or hasattr(optimizer, "method_state"):
        raise UserError(
            f"the first argument should be a torch optimizer such as torch.optim.SGD(...), not {_a(optimizer)}"
        )
    if isinstance(optimizer, LBFGS | SparseAdam):
        raise UserError(
            f"{type(optimizer).__name__} does not take one dense step a gradient; use SGD, Adam or AdamW"
        )
    if isinstance(method, type) or not (hasattr(method, "init") and hasattr(method, "step")):
        raise UserError(f"method should be one such as decentral.algorithms.DSGD(), not {_a(method)}")
    if not isinstance(comm, Communicator):
        raise UserError(f"comm should be what decentral.join(...) gave, not {_a(comm)}")
    if comm.h != 1 or comm.n != comm.ranks:
        raise UserError(
            f"comm has {comm.n} workers on {comm.ranks} ranks, and a script is one; use decentral.join"
        )
    if not isinstance(model, nn.Module | None):
        raise UserError(
            f"model should be the torch.nn.Module whose parameters the optimizer has, not {_a(model)}"
        )
    plain = type(optimizer) is SGD and not any(g["momentum"] for g in optimizer.param_groups)
    if (own := traits_of(method).optimizer) and not plain:
        raise UserError(
            f"{type(method).__name__} has an {own} of its own; give it torch.optim.SGD without momentum"
        )


def check_model(given: list[nn.Parameter], trained: list[nn.Parameter]) -> None:
    """Raise UserError for parameters that cannot lie in one row."""
    if any(map(is_lazy, given)):
        raise UserError("the model has lazy parameters without a shape yet; run one batch through it first")
    if not trained:
        raise UserError("the optimizer has no parameter that requires a gradient; there is nothing to train")
    kinds, devices = {str(p.dtype) for p in trained}, {str(p.device) for p in trained}
    if kinds - {"torch.float32", "torch.float64"}:
        raise UserError(
            f"parameters are {min(kinds - {'torch.float32', 'torch.float64'})}; keep them in torch.float32 and compute "
            "in a shorter type with torch.autocast"
        )
    for what, found in (("types", kinds), ("devices", devices)):
        if len(found) > 1:
            raise UserError(
                f"trained parameters have the {what} {', '.join(sorted(found))}; give all the same"
            )
    spans = sorted(
        (p.data_ptr(), p.data_ptr() + p.numel() * p.itemsize) for p in trained if p.is_contiguous()
    )
    if any(b[0] < a[1] for a, b in pairwise(spans)):
        raise UserError("two parameters share memory; to tie them, use one Parameter in both places")


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


def check_load(kept: Any, comm: Communicator, method: str, checksum: int) -> None:
    """Raise UserError if this is no state of this rank's optimizer and of the model it now has."""
    if not isinstance(kept, dict) or "model_crc32" not in kept:
        raise UserError("this is no state_dict() of a Decentralized optimizer; load what that gave")
    for what, here in (("workers", comm.n), ("rank", comm.rank), ("method", method)):
        if kept[what] != here:
            raise UserError(
                f"the state is of {what} {kept[what]}, but here it is {here}; give each rank its own"
            )
    if kept["model_crc32"] != checksum:
        raise UserError(
            "the model is not the one that this state was saved with; make Decentralized first, then call "
            "model.load_state_dict and optimizer.load_state_dict, with files of the same round and rank"
        )


def model_text(groups: list[dict[str, Any]], model: nn.Module | None, method: Method[Any]) -> str:
    """What must be alike on all ranks, in words and as a hash."""
    parameters = [p for group in groups for p in group["params"]]
    shapes = [[(tuple(p.shape), str(p.dtype), p.requires_grad) for p in group["params"]] for group in groups]
    others = [] if model is None else [*model.parameters(), *model.buffers()]
    whole = repr((shapes, [(tuple(t.shape), str(t.dtype)) for t in others]))
    code = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return (
        f"{sum(p.numel() for p in parameters)} parameters in {len(parameters)} tensors and {len(groups)} groups "
        f"(shapes {code}), {method}"
    )


def _a(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float | None | type) else f"a {type(value).__name__}"
