"""AugLocal: a stage's local head is a short version of the layers that follow it.

Ma, Wu, Si, Tan, ICLR 2024 (arXiv 2402.17318); rules for indices, depth and blocks as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from decentral.errors import UserError
from decentral.problems.models.convolutional import GlobalAverage

Shape = Sequence[int]


def sampled_layers(layer: int, layers: int, depth: int) -> list[int]:
    """The later layers that the head after ``layer`` l imitates, d = ``depth`` of them, out of N = ``layers``.

        round(l + (N - l - 1) / d * i),   i = 1 .. d        (halves are rounded to even, as Python does)

    All later layers where there are no more than d. The last one is always there.
    """
    if not 0 <= layer < layers - 1:
        raise UserError(
            f"local head 'auglocal' after layer {layer} has no later layer to imitate; the network has {layers} "
            "layers, and the last stage uses the network's own head"
        )
    left = layers - layer - 1
    if depth >= left:
        return [*range(layer + 1, layers)]
    return [round(layer + left / depth * i) for i in range(1, depth + 1)]


def pyramidal_depth(layer: int, layers: int, depth: int, decay: float) -> int:
    """Depth of the head after ``layer`` l = 0 .. N - 2: ``depth`` d after the first, less after later ones.

    max(1, round(d (1 - r) + r)),   r = decay l / (N - 2)
    """
    if depth < 1:
        raise UserError(f"local head 'auglocal': depth = {depth} must be at least 1")
    if not 0 <= decay <= 1:
        raise UserError(f"local head 'auglocal': decay = {decay} must be between 0 and 1")
    r = decay * layer / (layers - 2) if layers > 2 else 0.0
    return max(1, round(depth * (1 - r) + r))


def auglocal(
    shape: Shape, classes: int, layer: int, shapes: Sequence[Shape], depth: int = 2, decay: float = 0.5
) -> nn.Module:
    """Blocks of the shapes of sampled later layers, then a linear layer.

    The head after ``layer``, whose output has ``shape``; ``shapes``: of all layers' outputs, from
    :func:`decentral.stages.shapes.boundary_shapes`. To a map: a residual block of two 3x3 convolutions with batch norm,
    of the stride that reaches the later map's size, with a projection in the shortcut where the shape changes. To a
    vector: linear and ReLU. Maps are averaged over pixels before what takes vectors.
    The depth is that of :func:`pyramidal_depth`, by layers even where not every layer is trained alone.
    Raises UserError for token sequences, for maps that should come from vectors, and for values out of range.
    """
    layers = len(shapes)
    later = sampled_layers(layer, layers, pyramidal_depth(layer, layers, depth, decay))
    parts: list[nn.Module] = []
    before = tuple(shape)
    for after in (tuple(shapes[i]) for i in later):
        if len(after) == 3 and len(before) == 3:
            parts.append(_Block(before, after))
        elif len(after) == 1 and len(before) in (1, 3):
            parts += [*_vector(before), nn.Linear(before[0], after[0]), nn.ReLU()]
        else:
            raise UserError(
                f"local head 'auglocal' takes maps, then vectors, and the boundary has shape {tuple(shape)}, "
                f"a later layer {after}; use linear"
            )
        before = after
    return nn.Sequential(*parts, *_vector(before), nn.Linear(before[0], classes))


def _vector(shape: Shape) -> list[nn.Module]:
    return [GlobalAverage()] if len(shape) == 3 else []


class _Block(nn.Module):
    """relu(F(x) + P(x)): (B, C, H, W) to the later layer's channels and, up to rounding, its size."""

    def __init__(self, before: Shape, after: Shape) -> None:
        super().__init__()
        inputs, outputs = before[0], after[0]
        stride = max(1, round(before[1] / after[1])), max(1, round(before[2] / after[2]))
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == (1, 1)
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))
