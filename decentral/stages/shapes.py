"""The shapes of what crosses each boundary between layers: found by one trial, before training starts."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.errors import UserError
from decentral.stages.layers import Network

Shape = tuple[int, ...]
"""Of one example: (features,), (tokens, features) or (channels, height, width)."""


def boundary_shapes(network: Network, example: Tensor) -> list[Shape]:
    """Shape of the output of each of the L layers for one ``example``, without the axis of the batch.

    One pass in evaluation mode and without gradient; modes and running statistics are as before afterwards.
    The head is tried too. Raises UserError that names the layer that cannot take what the one before gives.
    """
    modules = [*network.modules().modules()]
    modes = [module.training for module in modules]
    try:
        with torch.no_grad():
            return _shapes(network, example[None])
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _shapes(network: Network, x: Tensor) -> list[Shape]:
    network.modules().eval()
    shapes: list[Shape] = []
    parts = [(f"layer {i}", layer) for i, layer in enumerate(network.layers)] + [("the head", network.head)]
    for name, part in parts:
        tried = f"{name} of the network ({type(part).__name__}), tried with one example of shape {tuple(x.shape[1:])},"
        try:
            y = part(x)
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise UserError(f"{tried} raised {type(error).__name__}: {said}") from error
        if not isinstance(y, Tensor):
            raise UserError(f"{tried} gave a {type(y).__name__}; a layer must give one tensor")
        if not y.ndim or len(y) != 1:
            raise UserError(
                f"{tried} gave shape {tuple(y.shape)}; a layer must keep the first axis, that of the batch"
            )
        x = y
        shapes.append(tuple(x.shape[1:]))
    return shapes[:-1]
