"""Gradients of workers cut to a norm: ``train.clip_norm``, before weight decay and update rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from decentral.optimizers.dots import dots

if TYPE_CHECKING:
    from torch import Tensor


def clipped(gradient: Iterable[tuple[slice, Tensor]], most: float) -> list[tuple[slice, Tensor]]:
    """The gradient of each worker, of the whole model, cut to the norm ``most``; one block, which may be the given one.

        g_i <- min(1, most / (|g_i| + 1e-6)) g_i

    as ``torch.nn.utils.clip_grad_norm_`` does. ``gradient``: blocks of columns of (h, d), given up; all of them are
    needed before the first is known.
    """
    import torch

    blocks = [g for _, g in gradient]
    g = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
    scale = (most / (dots(g, g).sqrt() + 1e-6)).clamp(max=1.0)
    return [(slice(0, g.shape[1]), g.mul_(scale.to(g.dtype)))]
