"""Weight rescaling for any torch optimizer: a hook on its step."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from torch import nn
from torch.optim import Optimizer

from decentral.optimizers.before_norms import before_norms
from decentral.optimizers.rescaling import By, Rescaling
from topologies.wording import shown

T = TypeVar("T", bound=Optimizer)
_COUNT = "rescaled_steps"  # in the first group, so that a state_dict has it
_HOOK = "_rescaling"


def rescaled(optimizer: T, model: nn.Module, batch: Any, by: By = "layer", every: int = 1) -> T:
    """``optimizer``, which from now on rescales the weights of ``model`` before batch norms after its steps.

    ``batch``: a few inputs; ``model(batch)`` is asked once which weights these are, and is left as it was. What is
    done to them: :class:`decentral.optimizers.rescaling.Rescaling`. Where a group has weight decay, they are put into
    one of their own without. How many steps there were is in the ``state_dict``, which is for an optimizer that is
    rescaled likewise. Inside of ``dc.Decentralized`` it acts after the round, on what mixing has left.

    Raises ValueError for a model without such a weight among the optimizer's parameters, and for settings that are
    none.
    """
    if is_rescaled(optimizer):
        raise ValueError("the optimizer rescales weights already; say rescaled(...) once")
    if getattr(getattr(optimizer, "rule", None), "evaluates", False):
        raise ValueError(
            f"{type(optimizer).__name__} keeps earlier models, from which it would go on; rescale another"
        )
    layers = before_norms(model, lambda: model(batch))
    named = dict(model.named_parameters())
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    layers = [one for one in layers if all(id(named[n]) in own for n in (one.weight, one.bias) if n)]
    rescaling = checked(Rescaling(layers, by, every))
    spare(optimizer, {id(named[name]) for name in rescaling.spared})
    optimizer.param_groups[0].setdefault(_COUNT, 0)

    def act(stepped: Optimizer, *_: Any) -> None:
        group = stepped.param_groups[0]
        if rescaling.is_due(group[_COUNT]):
            rescaling.act_on(model)
        group[_COUNT] += 1

    vars(optimizer)[_HOOK] = act, optimizer.register_step_post_hook(act)
    return optimizer


def is_rescaled(optimizer: Optimizer) -> bool:
    """Whether it is, by :func:`rescaled`."""
    return _HOOK in vars(optimizer)


def hand_over(inner: Optimizer, outer: Optimizer) -> None:
    """If ``inner`` is rescaled, that is done after a step of ``outer`` instead, which has the same groups."""
    if is_rescaled(inner):
        act, handle = vars(inner).pop(_HOOK)
        handle.remove()
        vars(outer)[_HOOK] = act, outer.register_step_post_hook(act)


def checked(rescaling: Rescaling) -> Rescaling:
    """It, if it can be done. Raises ValueError."""
    if rescaling.by not in get_args(By):
        raise ValueError(f"rescale = {shown(rescaling.by)} must be one of {', '.join(get_args(By))}")
    every = rescaling.every
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"rescale_every = {shown(every)} must be a whole number of steps, at least 1")
    if not rescaling.layers:
        raise ValueError(
            f"rescale = {rescaling.by!r} needs a weight whose output goes into a batch norm, and nowhere else; use a "
            "model that has one, such as cnn, or leave it out"
        )
    return rescaling


def spare(optimizer: Optimizer, spared: set[int]) -> None:
    """Parameters with these ids have no weight decay: they get groups of their own, where theirs has some."""
    for group in list(optimizer.param_groups):
        without = [p for p in group["params"] if id(p) in spared]
        if not group.get("weight_decay") or not without:
            continue
        if len(without) == len(group["params"]):
            group["weight_decay"] = group["weight_decay"] * 0
            continue
        settings = {key: value for key, value in group.items() if key not in ("params", _COUNT)}
        group["params"] = [p for p in group["params"] if id(p) not in spared]
        optimizer.add_param_group({**settings, "params": without, "weight_decay": 0.0})
