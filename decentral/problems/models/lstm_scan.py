"""A whole sequence through one LSTM layer with projection, from state 0, and the gradient, written out.

The input products of all steps are one product before the first step; a step has the recurrent product, the cells and
the projection; gradients of weights are one product each behind the last step. Autograd sees one operation a layer.
Products are not in place by name (``addmm_``), since torch's counter of FLOPs would not see them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from decentral.problems.models.lstm_step import backward_step, forgetting, forward_step


class Part(NamedTuple):
    """One group's weights of inputs (a, q/k) and of h' (a, p/k), its bias (4s,), and its columns of P (p, s)."""

    of_x: Tensor
    of_h: Tensor
    bias: Tensor
    projection: Tensor


class Scan(torch.autograd.Function):
    """x (B, T, q), up (4n, r) or None, then the tensors of a :class:`Part` for each of k groups -> h (B, T, p).

        u_g = of_x_g x_g + of_h_g h'_g,    a_g = u_g + bias_g, or up u_g + bias_g (k = 1),    h = sum_g projection_g m_g

    with m of :mod:`.lstm_step` and h' of the step before. Differentiable once; ``vmap`` has no rule for it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor | None, *parts: Tensor) -> Tensor:
        """See the class."""
        (b, t, q), groups = x.shape, grouped(parts)
        k, (p, s) = len(groups), groups[0].projection.shape
        rows = x.transpose(0, 1).reshape(t * b, q)
        u = inputs_in(rows, groups, up is None).view(k, t, b, -1)
        gates = u if up is None else x.new_empty(1, t, b, 4 * s)
        h, c = x.new_empty(t + 1, b, p), x.new_empty(k, t + 1, b, s)
        h[0], c[:, 0] = 0, 0
        m, squashed = x.new_empty(k, t, b, s), x.new_empty(k, t, b, s)
        bias = forgetting(groups[0].bias)
        for step in range(t):
            states_in(u[:, step], h[step].tensor_split(k, 1), groups)
            if up is not None:
                torch.addmm(bias, u[0, step], up.T, out=gates[0, step])
            forward_step(gates[:, step], c[:, step], c[:, step + 1], squashed[:, step], m[:, step])
            project(m[:, step], groups, h[step + 1])
        ctx.save_for_backward(rows, up, u, gates, c, squashed, m, h, *parts)
        return h[1:].transpose(0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients at x, up, and each group's tensors."""
        rows, up, u, gates, c, squashed, m, h, *parts = ctx.saved_tensors
        groups, (k, t, b, s) = grouped(parts), m.shape
        dh = dy.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        dgates, dc, dm = torch.empty_like(gates), torch.zeros_like(c[:, 0]), torch.empty_like(m[:, 0])
        du = dgates if up is None else torch.empty_like(u)
        dbias = gates.new_zeros(k, 4 * s)
        for step in reversed(range(t)):
            unproject(dh[step], groups, dm)
            backward_step(dm, dc, gates[:, step], c[:, step], squashed[:, step], dgates[:, step])
            dbias += dgates[:, step].sum(1)
            if up is not None:
                torch.mm(dgates[0, step], up, out=du[0, step])
            if step:
                states_back(du[:, step], groups, dh[step - 1].tensor_split(k, 1))
        flat, before = du.view(k, t * b, -1), h[:-1].view(t * b, -1)
        found = gradients(flat, rows, before, m.view(k, t * b, s), dh.view(t * b, -1))
        dup = None if up is None else dgates.view(t * b, -1).T @ u.view(t * b, -1)
        dx = inputs_back(flat, rows, groups) if ctx.needs_input_grad[0] else None
        of_groups = (g for (dx_, dh_, dp), db in zip(found, dbias, strict=True) for g in (dx_, dh_, db, dp))
        return (None if dx is None else dx.view(t, b, -1).transpose(0, 1), dup, *of_groups)


def scan(x: Tensor, up: Tensor | None, groups: Iterable[Part]) -> Tensor:
    """h (B, T, p) of :class:`Scan`."""
    h: Tensor = Scan.apply(x, up, *(tensor for group in groups for tensor in group))  # type: ignore[no-untyped-call]
    return h


def grouped(parts: Sequence[Tensor]) -> list[Part]:
    """The groups, from their tensors one after the other."""
    each = len(Part._fields)
    return [Part(*parts[i : i + each]) for i in range(0, len(parts), each)]


def inputs_in(rows: Tensor, groups: Sequence[Part], biased: bool) -> Tensor:
    """u (k, N, a) of inputs (N, q) alone, with the bias if ``biased``."""
    k = len(groups)
    u = rows.new_empty(k, len(rows), len(groups[0].of_x))
    for out, x, group in zip(u, rows.tensor_split(k, 1), groups, strict=True):
        if biased:
            torch.addmm(forgetting(group.bias), x, group.of_x.T, out=out)
        else:
            torch.mm(x, group.of_x.T, out=out)
    return u


def states_in(u: Tensor, h: Sequence[Tensor], groups: Sequence[Part]) -> None:
    """Add what each group's slice of h' (B, p/k) gives to u (k, B, a)."""
    for out, own, group in zip(u, h, groups, strict=True):
        torch.addmm(out, own, group.of_h.T, out=out)


def states_back(du: Tensor, groups: Sequence[Part], dh: Sequence[Tensor]) -> None:
    """Add the gradient at each group's slice of h' to ``dh``."""
    for out, given, group in zip(dh, du, groups, strict=True):
        torch.addmm(out, given, group.of_h, out=out)


def inputs_back(du: Tensor, rows: Tensor, groups: Sequence[Part]) -> Tensor:
    """The gradient at the inputs (N, q)."""
    dx = torch.empty_like(rows)
    for out, given, group in zip(dx.tensor_split(len(groups), 1), du, groups, strict=True):
        torch.mm(given, group.of_x, out=out)
    return dx


def project(m: Tensor, groups: Sequence[Part], h: Tensor) -> None:
    """h (B, p) = sum_g P_g m_g of m (k, B, s), groups ascending."""
    torch.mm(m[0], groups[0].projection.T, out=h)
    for own, group in zip(m[1:], groups[1:], strict=True):
        torch.addmm(h, own, group.projection.T, out=h)


def unproject(dh: Tensor, groups: Sequence[Part], dm: Tensor) -> None:
    """The gradient at m (k, B, s) of that at h (B, p)."""
    for out, group in zip(dm, groups, strict=True):
        torch.mm(dh, group.projection, out=out)


def gradients(
    du: Tensor, rows: Tensor, before: Tensor, m: Tensor, dh: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each group's gradients of both weights and the projection, over all N = T B rows; ``before``: h' (N, p)."""
    k = len(du)
    parts = zip(du, rows.tensor_split(k, 1), before.tensor_split(k, 1), m, strict=True)
    return [(given.T @ x, given.T @ h, dh.T @ own) for given, x, h, own in parts]
