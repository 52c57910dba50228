"""The step of a user's torch optimizer as a part of another step, with whatever the user has hung on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as base

_TORCH = str(Path(torch.__file__).parent)
_GLOBAL: tuple[dict[int, Any], ...] = (base._global_optimizer_pre_hooks, base._global_optimizer_post_hooks)


def make_step(optimizer: Optimizer, hooked: bool) -> None:
    """``optimizer.step()`` as a script would call it; if it is ``hooked``, with autograd on.

    Global hooks (``torch.optim.optimizer.register_optimizer_step_pre_hook``) are left out: torch calls them for the
    optimizer that the script steps, and a gradient that one scales should be scaled once.
    """
    if not hooked and not any(_GLOBAL):
        optimizer.step()
        return
    kept = [dict(hooks) for hooks in _GLOBAL]
    for hooks in _GLOBAL:
        hooks.clear()
    try:
        with torch.set_grad_enabled(hooked):
            optimizer.step()
    finally:
        for hooks, before in zip(_GLOBAL, kept, strict=True):
            hooks.update(before)


def is_hooked(optimizer: Optimizer) -> bool:
    """Whether its step is more than its class's, as torch has it: a hook, or another function in its place.

    What a scheduler of torch puts there only notes that it was called.
    """
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return True
    step = vars(optimizer).get("step", type(optimizer).step)
    while _is_of_torch(step):
        if not hasattr(step, "__wrapped__"):
            return False
        step = step.__wrapped__
    return True


def _is_of_torch(function: object) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.startswith(_TORCH)
