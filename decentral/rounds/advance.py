"""The round loop's inner step: one method, one round, in blocks of columns that stay in cache.

Methods act alike on every column of (h, d), so a round may be done a few thousand columns at a time, while they are
in the processor's cache: half the time of whole-array arithmetic. A method does not notice. Where something looks at
whole vectors (links that compress or keep late messages, a method on the layers' matrices) a round is one block.

A method's state may hold one number a worker or an edge, a tensor (h, 1): each block is given what it was before the
round, and what the last block leaves is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from decentral.algorithms.state import map_state, tensors_of, with_tensors
from decentral.algorithms.traits import Method, traits_of
from decentral.blocks import block_width, column_blocks
from decentral.comm import Mixer
from decentral.comm.launch import one_thread
from decentral.rounds.by_rows import InBlocks
from decentral.rounds.fused.fusing import FusedRound, fused_round
from decentral.rounds.fused.halves import halves_of
from decentral.rounds.posting import AHEAD, PostingComm, in_turns
from decentral.rounds.team import Work, share

_LITTLE = 1 << 20  # numbers of a gradient's block


def advance(
    method: Method[Any],
    x: Tensor,
    state: Any,
    gradient: Iterable[tuple[slice, Tensor | None]],
    comm: Mixer,
    t: int,
    lr: float,
    weight_decay: float = 0.0,
    width: int | None = None,
    whole: bool = False,
) -> tuple[Tensor, Any]:
    """Round t of ``method`` from x (h, d), which is consumed. ``gradient`` comes in blocks of columns of (h, d).

    They are cut further into blocks of at most ``width`` columns; by default :func:`block_width` says of how many.
    In one process torch's threads share the blocks, and one block is one thread's. On ranks the messages of up to four
    blocks travel together. A block may come without a gradient, for a method whose gradient step the caller makes
    (:mod:`decentral.rounds.trials.gradient_step`); then all must, and there is no weight decay. ``whole``: the round is
    one block, for a method that :mod:`decentral.rounds.trials.columns` has found to look across columns.

    Weight decay joins the gradient here, before the method, and so before any communication.
    """
    gradient = iter(gradient)
    opening = [next(gradient)]
    stepped = opening[0][1] is not None  # the gradient step is the method's
    fuses = width is None and stepped
    little = (opening[0][0].stop - opening[0][0].start) * x.shape[0] <= _LITTLE
    gradient, width = chain(_taken(opening), gradient), width or block_width(*x.shape)
    threads = torch.get_num_threads() if x.device.type == "cpu" and comm.ranks == 1 else 1
    cut = not (whole or comm.whole or traits_of(method).whole)
    if not cut:
        given = list(gradient)
        if getattr(method, "joins_rows", False) and len(given) > 1:
            there = InBlocks([g for _, g in given if g is not None])
            return method.step(x, state, there, comm.at(t), lr)  # type: ignore[arg-type]
        width, threads, gradient = x.shape[1], 1, _joined(given)
    elif fuses and (one_pass := fused_round(method, x, state, comm, t, lr, weight_decay)):
        return _in_one_pass(one_pass, gradient, threads, little)
    elif width < x.shape[1]:
        width = min(width, -(-x.shape[1] // threads))  # each thread has a block
    blocks: Any = _Blocks(method, x, state, lr, weight_decay)
    if cut and comm.ranks > 1 and stepped:
        blocks = halves_of(method, x, state, comm, t, lr, weight_decay) or blocks
    parts = _cut(gradient, width)
    first, g = next(parts)
    # one block is the whole round: nothing to cut or to put back
    if isinstance(blocks, _Blocks) and first.stop - first.start == x.shape[1]:
        with one_thread() if threads > 1 else nullcontext():
            return method.step(x, state, blocks.decayed(first, g), comm.at(t), lr)  # type: ignore[arg-type]
    rounds = PostingComm(comm) if comm.ranks > 1 else comm
    works = chain(
        [partial(blocks.step, first, g, rounds.at(t))],
        (partial(blocks.step, block, g, rounds.at(t, False)) for block, g in parts),
    )
    _do(works, comm.ranks, threads)
    return x, blocks.state


def _in_one_pass(
    one_pass: FusedRound, gradient: Iterable[tuple[slice, Tensor | None]], threads: int, little: bool
) -> tuple[Tensor, Any]:
    """Threads take ``little`` blocks of the gradient in turn, each computing alone, which a busy machine holds up less.

    Large ones all compute together, one after the other: its memory is free before the next.
    """
    width = one_pass.width(threads)
    if little:
        parts = _cut(gradient, width)
        _do((partial(one_pass.step, block, g) for block, g in parts), 1, threads)  # type: ignore[arg-type]
        return one_pass.x, one_pass.state
    for columns, g in gradient:
        parts = _cut([(columns, g)], width)
        works = (partial(one_pass.step, block, part) for block, part in parts)  # type: ignore[arg-type]
        _do(works, 1, threads if columns.stop - columns.start > width else 1)
        del g, parts, works
    return one_pass.x, one_pass.state


def _do(works: Iterable[Work], ranks: int, threads: int) -> None:
    if ranks > 1:
        in_turns(works, AHEAD)
    elif threads > 1:
        share(works, threads)
    else:
        for work in works:
            work()


class _Blocks:
    """A round of ``method`` on x (h, d) and its state, a block of columns after the other."""

    def __init__(self, method: Method[Any], x: Tensor, state: Any, lr: float, weight_decay: float) -> None:
        self.method, self.x, self.before, self.lr, self.weight_decay = method, x, state, lr, weight_decay
        self.wide = [s.shape[1] > 1 for s in tensors_of(state)]
        self.rest = state  # what the newest block has left

    def decayed(self, block: slice, g: Tensor | None) -> Tensor | None:
        """The gradient with weight decay; a step changes no other columns of x, so it is that of x as it came."""
        return g.add(self.x[:, block], alpha=self.weight_decay) if self.weight_decay and g is not None else g

    def step(self, block: slice, g: Tensor | None, rounds: Mixer) -> None:
        """The columns ``block`` of x and of the state's wide tensors."""
        part = self.x[:, block]
        state_part = map_state(partial(_columns, block), self.before)
        part_after, rest = self.method.step(part, state_part, self.decayed(block, g), rounds, self.lr)  # type: ignore[arg-type]
        _write(part, part_after)
        for is_cut, target, source in zip(self.wide, tensors_of(state_part), tensors_of(rest), strict=True):
            if is_cut:
                _write(target, source)
        self.rest = rest

    @property
    def state(self) -> Any:
        """After all blocks: wide tensors in their place, numbers as the last block has left them."""
        ends = zip(self.wide, tensors_of(self.before), tensors_of(self.rest), strict=True)
        return with_tensors(self.rest, [whole if is_cut else number for is_cut, whole, number in ends])


def _taken(blocks: list[tuple[slice, Tensor | None]]) -> Iterator[tuple[slice, Tensor | None]]:
    """The blocks, which nobody here holds any more."""
    while blocks:
        yield blocks.pop(0)


def _cut(
    gradient: Iterable[tuple[slice, Tensor | None]], width: int
) -> Iterator[tuple[slice, Tensor | None]]:
    """The gradient's blocks of columns in blocks of at most ``width`` columns."""
    for columns, g in gradient:
        for block in column_blocks(columns, width):
            part = slice(block.start - columns.start, block.stop - columns.start)
            yield block, None if g is None else g[:, part]


def _columns(block: slice, s: Tensor) -> Tensor:
    return s[:, block] if s.shape[1] > 1 else s.clone()


def _joined(blocks: list[tuple[slice, Tensor | None]]) -> list[tuple[slice, Tensor | None]]:
    """Blocks of columns as one block."""
    if len(blocks) == 1:
        return blocks
    there = [g for _, g in blocks if g is not None]
    return [(slice(0, blocks[-1][0].stop), torch.cat(there, dim=1) if there else None)]


def _write(target: Tensor, source: Tensor) -> None:
    if source.data_ptr() != target.data_ptr():
        target.copy_(source)
