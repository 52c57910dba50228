"""Which weights of a model have an output that goes into a batch norm and nowhere else: found by a pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


class Normed(NamedTuple):
    """A layer before a batch norm, by the names that the model has for its tensors.

    ``blocks``: (groups, inputs of a group, outputs of a group) of the leading axes of ``weight``, in that order: its
    output channels are groups times outputs. Without an axis of inputs, as in all but transposed convolutions, groups
    and inputs are 1. ``norm``: the batch norm itself; ``mean`` and ``var``: its running statistics, "" where it keeps
    none.
    """

    weight: str
    bias: str
    norm: str
    mean: str
    var: str
    blocks: tuple[int, int, int]


class _Calls(NamedTuple):
    """What went through the model's modules: the last tensor of each, its node in the graph, and how often."""

    last: dict[nn.Module, tuple[Tensor, Any]]
    times: Counter[nn.Module]


def before_norms(model: nn.Module, run: Callable[[], Any]) -> list[Normed]:
    """The linear layers and convolutions of ``model`` whose output is, as it is, what a batch norm is given.

    ``run``: a pass of a small batch through it, of which whatever it gives is the output. It is made in training mode,
    with the graph; modes, buffers and torch's generators are left as they were. Such a layer is left out where its
    weight or its output has another use (a skip connection, a tied weight, a module that is called twice), where a
    parameter is frozen or computed from others, and where the channels are not those of the norm.
    """
    with _kept(model), _watched(model) as calls, torch.enable_grad():
        uses = _uses(tree_leaves(run()))
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    buffers = {id(b): name for name, b in model.named_buffers()}
    paths = {module: path for path, module in model.named_modules()}
    found = []
    for norm, (x, node) in calls.last.items():
        if not isinstance(norm, _BatchNorm) or calls.times[norm] != 1 or node is None or uses[node] != 1:
            continue
        layer = next(
            (m for m, (y, of) in calls.last.items() if m is not norm and y is x and of is node), None
        )
        if layer is None or calls.times[layer] != 1 or (isinstance(layer, nn.Linear) and x.dim() != 2):
            continue
        weight, bias = layer.weight, layer.bias
        own: list[Any] = [weight] if bias is None else [weight, bias]
        if any(id(p) not in names or uses[id(p)] != 1 for p in own):
            continue
        mean, var = (buffers.get(id(b), "") for b in (norm.running_mean, norm.running_var))
        of_bias = "" if bias is None else names[id(bias)]
        found.append(Normed(names[id(weight)], of_bias, paths[norm], mean, var, _blocks(layer)))
    order = {name: k for k, name in enumerate(names.values())}
    return sorted(found, key=lambda one: order[one.weight])


def _blocks(layer: Any) -> tuple[int, int, int]:
    if isinstance(layer, _TRANSPOSED):
        return layer.groups, layer.in_channels // layer.groups, layer.out_channels // layer.groups
    return 1, 1, layer.weight.shape[0]


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Inside, the model trains with copies of its buffers; afterwards all is as it was."""
    modes = [(part, part.training) for part in model.modules()]
    held = [(part, k, b) for part in model.modules() for k, b in part._buffers.items() if b is not None]
    copies = {id(b): b.clone() for _, _, b in held}
    cuda = {b.device for b in model.parameters() if b.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(cuda)):
        try:
            model.train()
            for part, key, b in held:
                part._buffers[key] = copies[id(b)]
            yield
        finally:
            for part, mode in modes:
                part.training = mode
            for part, key, b in held:
                part._buffers[key] = b


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Calls]:
    calls = _Calls({}, Counter())

    def note(module: nn.Module, x: Any) -> None:
        calls.times[module] += 1
        if isinstance(x, Tensor):
            calls.last[module] = x, x.grad_fn

    def enter(norm: nn.Module, args: tuple[Any, ...]) -> Any:
        x = args[0] if args else None
        note(norm, x)
        # a view, so that it is one use however often the norm looks at it
        return (x.view_as(x), *args[1:]) if isinstance(x, Tensor) else None

    hooks = []
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            hooks.append(part.register_forward_pre_hook(enter))
        elif type(part) in _LINEAR:
            hooks.append(part.register_forward_hook(lambda m, _, y: note(m, y)))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _uses(outputs: Iterable[Any]) -> Counter[Any]:
    """Of each node of the graph, and of each leaf by its id, how many nodes or outputs take it in."""
    uses: Counter[Any] = Counter()
    uses.update(y.grad_fn for y in outputs if isinstance(y, Tensor) and y.grad_fn is not None)
    seen = set(uses)
    waiting = list(seen)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            uses[id(node.variable) if hasattr(node, "variable") else node] += 1
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return uses
