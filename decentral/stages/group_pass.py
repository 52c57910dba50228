"""One layer's pass through the groups of an LSTM that one stage has: what it computes between two meetings.

A stage's groups have slices of the input and of h' of their own. They meet in the projection alone: forward each stage
has, of each step, P's columns of its cells times m, and keeps its slice of the sum over stages; backward each has a
slice of the gradient at h and needs the whole of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decentral.problems.models.lstm_scan import (
    Part,
    gradients,
    inputs_back,
    inputs_in,
    project,
    states_back,
    states_in,
    unproject,
)
from decentral.problems.models.lstm_step import backward_step, forward_step
from decentral.problems.models.projected_lstm import Cells, GroupLSTM


class GroupShare(nn.Module):
    """Some of the groups of a layer, under the names that they have there: what one of ``count`` stages has."""

    def __init__(self, layer: GroupLSTM, own: range, count: int) -> None:
        super().__init__()
        self.k, self.p, self.count = layer.k, layer.p, count
        self.groups = nn.ModuleDict({str(g): layer.groups[g] for g in own})

    @property
    def cells(self) -> list[Cells]:
        """The groups."""
        return [group for group in self.groups.values() if isinstance(group, Cells)]


class GroupPass:
    """A batch on its way through a :class:`GroupShare`, and back. ``x`` (B, T, q'): the groups' slices of the input."""

    def __init__(self, share: GroupShare, x: Tensor) -> None:
        self.share, self.groups = share, [Part(*(p.detach() for p in cells.part)) for cells in share.cells]
        b, t, q = x.shape
        k, s = len(self.groups), self.groups[0].projection.shape[1]
        self.steps, self.width = t, share.p * k // share.k
        self.rows = x.detach().transpose(0, 1).reshape(t * b, q)
        self.gates = inputs_in(self.rows, self.groups, True).view(k, t, b, 4 * s)
        self.h, self.c = x.new_zeros(t + 1, b, self.width), x.new_zeros(k, t + 1, b, s)
        self.m, self.squashed = x.new_empty(k, t, b, s), x.new_empty(k, t, b, s)
        self.kept = keep(self.gates, self.h, self.c, self.m, self.squashed, self.rows)

    def forward(self, step: int, met: Sequence[Tensor]) -> Tensor:
        """P's columns of the own cells times m, (B, p). ``met``: all stages' own slices of that of the step before."""
        self.meet(step, met)
        states_in(self.gates[:, step], self.h[step].tensor_split(len(self.groups), 1), self.groups)
        c, now = self.c[:, step : step + 2].unbind(1)
        forward_step(self.gates[:, step], c, now, self.squashed[:, step], self.m[:, step])
        partial = self.h.new_empty(self.h.shape[1], self.share.p)
        project(self.m[:, step], self.groups, partial)
        return partial

    def meet(self, step: int, met: Sequence[Tensor]) -> None:
        """The own slice of h after so many steps: the sum over stages, ascending."""
        if met:
            torch.add(*met[:2], out=self.h[step]) if met[1:] else self.h[step].copy_(met[0])
        for other in met[2:]:
            self.h[step].add_(other)

    def output(self, met: Sequence[Tensor]) -> Tensor:
        """The own slices of h (B, T, p'), once the last step has been met."""
        self.meet(self.steps, met)
        return self.h[1:].transpose(0, 1).contiguous()

    def turn(self, dy: Tensor) -> None:
        """Begin the way back, with the gradient (B, T, p') at the own slices of h."""
        self.dh = dy.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        self.whole = self.dh.new_empty(self.steps, self.dh.shape[1], self.share.p)
        self.dgates, self.dc = torch.empty_like(self.gates), torch.zeros_like(self.c[:, 0])
        self.dm = torch.empty_like(self.m[:, 0])

    def backward(self, step: int, met: Sequence[Tensor]) -> None:
        """A step's way back. ``met``: all stages' slices of the gradient at its h, ascending."""
        torch.cat(list(met), 1, out=self.whole[step])
        unproject(self.whole[step], self.groups, self.dm)
        c, squashed, dgates = self.c[:, step], self.squashed[:, step], self.dgates[:, step]
        backward_step(self.dm, self.dc, self.gates[:, step], c, squashed, dgates)
        if step:
            states_back(dgates, self.groups, self.dh[step - 1].tensor_split(len(self.groups), 1))

    def learn(self) -> Tensor:
        """Put the gradients of the groups in ``grad``; the gradient (B, T, q') at the input."""
        (k, t, b, s), of = self.m.shape, self.h[:-1].flatten(0, 1)
        flat = self.dgates.view(k, t * b, 4 * s)
        found = gradients(flat, self.rows, of, self.m.view(k, t * b, s), self.whole.view(t * b, -1))
        for cells, gates, (of_x, of_h, projection) in zip(self.share.cells, flat, found, strict=True):
            given = Part(of_x, of_h, gates.sum(0), projection)
            for p, g in zip(cells.part, given, strict=True):
                p.grad = g if p.grad is None else p.grad + g
        return inputs_back(flat, self.rows, self.groups).view(t, b, -1).transpose(0, 1)


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, root: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return root.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError


def keep(*tensors: Tensor) -> Tensor:
    """As long as the answer lives, these count as kept for a backward pass, as autograd's own do: for meters."""
    kept: Tensor = _Kept.apply(torch.zeros((), requires_grad=True), *tensors)  # type: ignore[no-untyped-call]
    return kept
