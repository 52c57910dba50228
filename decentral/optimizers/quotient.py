"""Adam's quotient of moments in one pass, by torch's fused kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.optimizers.adam import Moments
from decentral.optimizers.spans import pieces_of

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout
    from decentral.optimizers.spans import Spans


def add_quotient_(
    u: Tensor, state: Moments, g: Spans, layout: Layout, betas: tuple[float, float], eps: float
) -> Moments:
    """u + r (h, d), in place, as are the moments with g in them, which are returned.

        m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2
        r = (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)         (k-th step)

    It is Adam's step of u with lr = -1. Each span of each row is handed over by itself: the kernel rounds the last few
    numbers of what it is given otherwise, and those are then the same whoever else is hosted.
    """
    import torch

    m, v, k = state.m, state.v, state.steps + 1
    of_u, of_g, of_m, of_v = (pieces_of(rows, layout) for rows in (u, g, m, v))
    of_g = [part.contiguous() for part in of_g]  # the kernel does not look how they lie
    steps = [torch.tensor(float(k), device=m.device)] * len(of_u)
    torch._fused_adam_(
        of_u, of_g, of_m, of_v, [], steps, lr=-1.0, beta1=betas[0], beta2=betas[1], weight_decay=0.0, eps=eps,
        amsgrad=False, maximize=False,
    )  # fmt: skip
    return Moments(m, v, k)
