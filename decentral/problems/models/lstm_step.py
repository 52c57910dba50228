"""One step of an LSTM's cells and its gradient, in place: what a layer in one process and its groups apart both do.

With gates a = (a_i, a_f, a_o, a_j) of a step, and c' the state of the step before,

    i = sig(a_i),   f = sig(a_f + 1),   o = sig(a_o),   j = tanh(a_j),   c = f c' + i j,   m = o tanh(c)

Gates lie side by side in the last axis, each s wide, in this order: the three sigmoids are one operation. The forget
gate's 1 is in ``a`` before. Axes before the last are any, the same in all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def forward_step(gates: Tensor, before: Tensor, c: Tensor, squashed: Tensor, m: Tensor) -> None:
    """``gates`` (..., 4s), a on the way in, (i, f, o, j) on the way out; ``before`` c'; written: c, tanh(c), m."""
    s = c.shape[-1]
    gates[..., : 3 * s].sigmoid_()
    gates[..., 3 * s :].tanh_()
    i, f, o, j = gates.chunk(4, -1)
    torch.mul(f, before, out=c).addcmul_(i, j)
    torch.tanh(c, out=squashed)
    torch.mul(o, squashed, out=m)


def backward_step(
    dm: Tensor, dc: Tensor, gates: Tensor, before: Tensor, squashed: Tensor, dgates: Tensor
) -> None:
    """The gradient at a, written to ``dgates`` (..., 4s), from that at m and, in ``dc``, what comes from the next step.

    ``dc`` is the gradient at c' on the way out. ``gates``: (i, f, o, j).
    """
    s = dc.shape[-1]
    i, f, o, j = gates.chunk(4, -1)
    di, df, do, dj = dgates.chunk(4, -1)
    torch.mul(dm, o, out=dj)
    dc.add_(_tanh_backward(dj, squashed, grad_input=dj))
    torch.mul(dm, squashed, out=do)
    torch.mul(dc, j, out=di)
    torch.mul(dc, before, out=df)
    _sigmoid_backward(dgates[..., : 3 * s], gates[..., : 3 * s], grad_input=dgates[..., : 3 * s])
    _tanh_backward(torch.mul(dc, i, out=dj), j, grad_input=dj)
    dc.mul_(f)


def forgetting(bias: Tensor) -> Tensor:
    """The bias (4s,) of gates with f's 1."""
    s = len(bias) // 4
    return bias + pad(bias.new_ones(s), (s, 2 * s))
