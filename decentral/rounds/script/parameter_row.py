"""The parameters of a torch optimizer as one row (1, d), of which they are views, and their gradients as its blocks.

Each view has a storage of its own on the row's memory, so that torch.save of a part of a model, or a copy of it, is as
large as that part. Nothing is copied into the row or out of it in a step. A large gradient is handed on where backward
left it; small ones are gathered, many to a block. ``p.grad`` stays torch's own: with views of one buffer for ``p.grad``
instead, backward would have to add to what is there and zero_grad to clear it, two passes more than a copy costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.dlpack import from_dlpack

from decentral.blocks import column_blocks
from decentral.comm.layout import Layout, Span
from decentral.errors import UserError

_WIDTH = 1 << 20  # columns of a block: few, so that few messages are waited for, but they still fit a cache


@dataclass(frozen=True)
class Piece:
    """Entries ``start`` to ``stop`` of parameter number ``index``, flat, at column ``at`` of their block."""

    index: int
    start: int
    stop: int
    at: int


@dataclass(frozen=True)
class Block:
    """Columns of the row, and the pieces of parameters that they are."""

    columns: slice
    pieces: tuple[Piece, ...]


class ParameterRow:
    """``parameters``, whose data become views of ``x`` (1, d); ``blocks`` cut x into columns, in order.

    Parameters of more than half a block come first and have blocks of their own, so that their gradients need not be
    gathered; small ones share blocks, and so messages. With ``gathers`` False, for who will seldom ask for gradients,
    only those have that are wider than a block. With ``whole`` there is one block.
    """

    def __init__(self, parameters: Sequence[Parameter], whole: bool, gathers: bool = True) -> None:
        self.parameters = list(parameters)
        sizes = [p.numel() for p in self.parameters]
        d = sum(sizes)
        self.width = width = d if whole else min(d, _WIDTH)
        large = _WIDTH // 2 if gathers and not whole else width
        order = sorted(range(len(sizes)), key=lambda k: sizes[k] <= large)
        self.blocks = _blocks(order, sizes, width, large)
        like = self.parameters[0]
        self.x = torch.empty((1, d), dtype=like.dtype, device=like.device)
        self._gathered: dict[int, Tensor] = {}
        self._targets: dict[int, list[Tensor]] = {}
        parts = dict(zip(order, self.x[0].split_with_sizes([sizes[k] for k in order]), strict=True))
        self.spans = [(int(parts[k].storage_offset()), p.shape) for k, p in enumerate(self.parameters)]
        self.views = self.views_of(self.x)
        for p, view in zip(self.parameters, self.views, strict=True):
            view.copy_(p.data)
            p.data = view
        self._addresses = [view.data_ptr() for view in self.views]

    def layout(self) -> Layout:
        """Which columns of x are which parameter, as methods and links that look at matrices want to know it."""
        spans = [
            Span(str(k), at, at + shape.numel(), tuple(shape)) for k, (at, shape) in enumerate(self.spans)
        ]
        return Layout(tuple(sorted(spans, key=lambda span: span.start)))

    def views_of(self, x: Tensor) -> list[Tensor]:
        """Each parameter's part of x (1, d), in its shape; it keeps the memory of x, but not its storage."""
        parts = (x[0, at : at + shape.numel()].view(shape) for at, shape in self.spans)
        return [from_dlpack(part) for part in parts]

    def bind(self, views: list[Tensor]) -> None:
        """Let the parameters' data be these tensors."""
        for p, view in zip(self.parameters, views, strict=True):
            p.data = view

    def check(self) -> None:
        """Raise UserError if a parameter's data have been put elsewhere since."""
        if [p.data_ptr() for p in self.parameters] != self._addresses:
            raise UserError(
                "parameters were moved after Decentralized was made, by .to(), .half(), assigning to .data or another "
                "Decentralized; move the model first, and then make its optimizers"
            )

    def versions(self) -> list[int]:
        """How often each parameter was written to in place, by torch's count."""
        return [p._version for p in self.parameters]

    def written(self) -> None:
        """Tell autograd that the parameters have changed, as an optimizer's step does."""
        torch.autograd.graph.increment_version(self.parameters)

    def gradients(
        self, scales: Sequence[float] | None = None, decays: Sequence[float] | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """The parameters' gradients, block by block: (columns, (1, width)); of a parameter without one, zeros.

        With ``scales`` and ``decays`` of each parameter: (gradient + decay x) scale.
        """
        for number, block in enumerate(self.blocks):
            first = block.pieces[0]
            grad = self.parameters[first.index].grad
            if len(block.pieces) == 1 and scales is None and grad is not None and grad.is_contiguous():
                yield block.columns, grad.view(1, -1)[:, first.start : first.stop]
                continue
            g, targets = self.room(number), self._targets[number]
            sources = [self._part(piece) for piece in block.pieces]
            there = [source for source in sources if source is not None]
            if scales is None and len(there) == len(targets):
                torch._foreach_copy_(targets, there)
            else:
                self._gather_each(block, targets, sources, scales, decays)
            yield block.columns, g

    def put_gradient(self, number: int, g: Tensor) -> None:
        """Make that block's part of the parameters' gradients g (1, width); one that has none gets one."""
        for piece in self.blocks[number].pieces:
            p = self.parameters[piece.index]
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            size = piece.stop - piece.start
            part = g[0, piece.at : piece.at + size]
            if size == p.numel():
                p.grad.copy_(part.view(p.shape))
            else:
                p.grad.view(-1)[piece.start : piece.stop] = part

    def _part(self, piece: Piece) -> Tensor | None:
        """The gradient of a piece, in its parameter's shape if it is all of it."""
        grad = self.parameters[piece.index].grad
        if grad is None or piece.stop - piece.start == grad.numel():
            return grad
        return grad.reshape(-1)[piece.start : piece.stop]

    def _gather_each(
        self,
        block: Block,
        targets: list[Tensor],
        sources: list[Tensor | None],
        scales: Sequence[float] | None,
        decays: Sequence[float] | None,
    ) -> None:
        for piece, target, source in zip(block.pieces, targets, sources, strict=True):
            if source is None:
                target.zero_()
            else:
                target.copy_(source)
            if scales is None or decays is None:
                continue
            if decays[piece.index]:
                at = block.columns.start + piece.at
                x = self.x[0, at : at + piece.stop - piece.start]
                target.add_(x.view(target.shape), alpha=decays[piece.index])
            if scales[piece.index] != 1:
                target.mul_(scales[piece.index])

    def room(self, number: int) -> Tensor:
        """Memory for that block's gradient, (1, width)."""
        if number not in self._gathered:
            columns, pieces = self.blocks[number].columns, self.blocks[number].pieces
            g = self._gathered[number] = self.x.new_empty((1, columns.stop - columns.start))
            self._targets[number] = []
            for piece in pieces:
                size, p = piece.stop - piece.start, self.parameters[piece.index]
                target = g[0, piece.at : piece.at + size]
                self._targets[number].append(target.view(p.shape) if size == p.numel() else target)
        return self._gathered[number]


def _blocks(order: list[int], sizes: list[int], width: int, large: int) -> list[Block]:
    """Parameters in this order in blocks of at most ``width`` columns; one with more than ``large`` in its own."""
    blocks: list[Block] = []
    open_pieces: list[Piece] = []
    begin = end = 0

    def close() -> None:
        nonlocal begin
        if open_pieces:
            blocks.append(Block(slice(begin, end), tuple(open_pieces)))
            open_pieces.clear()
        begin = end

    for k in order:
        size = sizes[k]
        if end - begin + size > width:
            close()
        if size > min(width, large):
            close()
            for cut in column_blocks(slice(0, size), width):
                end += cut.stop - cut.start
                open_pieces.append(Piece(k, cut.start, cut.stop, 0))
                close()
            continue
        open_pieces.append(Piece(k, 0, size, end - begin))
        end += size
    close()
    return blocks
