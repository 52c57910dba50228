"""Local heads by name: small classifiers on a stage's output, so that the stage has a loss of its own.

A boundary's shape is that of one example: (features,), (tokens, features) or maps (channels, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from decentral.errors import UserError
from decentral.problems.models.convolutional import GlobalAverage

Shape = Sequence[int]


def linear(shape: Shape, classes: int, flatten: bool = False) -> nn.Module:
    """One linear layer: of the features, of each token, or of the channels' means over pixels.

    ``flatten``: of all pixels instead of the means.
    """
    if len(shape) < 3:
        return nn.Linear(shape[-1], classes)
    if flatten:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
    return nn.Sequential(GlobalAverage(), nn.Linear(shape[0], classes))


def mlp(shape: Shape, classes: int, layers: int = 3, width: int | None = None) -> nn.Module:
    """Hidden ``layers`` with batch norm and ReLU, then a linear layer; maps are averaged to about 2 x 2 pixels before.

    ``width`` of the hidden layers: if not given, that of their input. Three layers of that width on 2 x 2 pixels are
    DGL's "mlp": Belilovsky, Eickenberg, Oyallon 2020 (arXiv 1901.08164).
    """
    if len(shape) not in (1, 3):
        raise UserError(refusal("mlp", "(features,) or (channels, height, width)", shape, "linear"))
    if len(shape) == 3:
        pool, features = _averaged(shape, 2)
        return nn.Sequential(pool, nn.Flatten(), *_hidden(features, layers, width, "mlp", classes))
    return nn.Sequential(*_hidden(shape[0], layers, width, "mlp", classes))


def mlp_sr(shape: Shape, classes: int, convolutions: int = 3, layers: int = 3) -> nn.Module:
    """Spatially reduced: average over 4 x 4 pixels, 1x1 ``convolutions`` with batch norm and ReLU, then :func:`mlp`.

    DGL's "mlp-sr": Belilovsky, Eickenberg, Oyallon 2020 (arXiv 1901.08164).
    """
    if len(shape) != 3:
        raise UserError(refusal("mlp-sr", "maps (channels, height, width)", shape, "linear"))
    _check_counts("mlp-sr", convolutions=convolutions)
    channels, height, width = shape
    parts: list[nn.Module] = [nn.AvgPool2d(4, ceil_mode=True)]
    for _ in range(convolutions):
        parts += [nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*parts, mlp((channels, -(-height // 4), -(-width // 4)), classes, layers))


def conv(shape: Shape, classes: int, convolutions: int = 2) -> nn.Module:
    """3x3 ``convolutions`` with batch norm and ReLU, average to about 2 x 2 pixels, one linear layer.

    DGL's "cnn" (arXiv 1901.08164), without its last batch norm.
    """
    if len(shape) != 3:
        raise UserError(refusal("conv", "maps (channels, height, width)", shape, "linear"))
    _check_counts("conv", convolutions=convolutions)
    channels = shape[0]
    parts: list[nn.Module] = []
    for _ in range(convolutions):
        parts += [
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        ]  # fmt: skip
    pool, features = _averaged(shape, 2)
    return nn.Sequential(*parts, pool, nn.Flatten(), nn.Linear(features, classes))


def token_softmax(shape: Shape, classes: int) -> nn.Module:
    """Layer norm and a linear layer on each token: (B, T, features) to (B, T, classes)."""
    if len(shape) != 2:
        raise UserError(refusal("token-softmax", "(tokens, features)", shape, "linear"))
    return nn.Sequential(nn.LayerNorm(shape[1]), nn.Linear(shape[1], classes))


def _hidden(inputs: int, layers: int, width: int | None, head: str, classes: int) -> list[nn.Module]:
    """Hidden layers with batch norm, then the linear one."""
    width = inputs if width is None else width
    _check_counts(head, layers=layers, width=width)
    parts: list[nn.Module] = []
    for k in range(layers):
        before = inputs if k == 0 else width
        parts += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return [*parts, nn.Linear(width, classes)]


def _averaged(shape: Shape, side: int) -> tuple[nn.Module, int]:
    """Average pooling to at most ``side`` x ``side`` pixels, and the number of features then.

    Windows do not overlap: the gradient of adaptive pooling has no fixed order on CUDA.
    """
    channels, *sizes = shape
    windows = [-(-size // side) for size in sizes]
    left = math.prod(-(-size // window) for size, window in zip(sizes, windows, strict=True))
    return nn.AvgPool2d((windows[0], windows[1]), ceil_mode=True), channels * left


def _check_counts(head: str, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"local head {head!r}: {name} = {count} must be at least 1")


def refusal(head: str, needs: str, shape: Shape, instead: str) -> str:
    """What is said of a boundary that a head cannot take."""
    return f"local head {head!r} needs {needs} and the boundary has shape {tuple(shape)}; use {instead}"
