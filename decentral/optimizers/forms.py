"""What a torch optimizer remembers, as two rows of bytes: where in them each of its tensors and numbers lies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from decentral.errors import UserError
from topologies.wording import LONGEST_VALUE, cut

_ALIGNED = 16  # bytes: of the widest numbers, complex128
_NUMBERS: dict[type, type] = {bool: np.uint8, int: np.int64, float: np.float64}


class Row(NamedTuple):
    """Of one worker: ``tensors`` (K,), bytes where its model is; ``numbers`` (N,), bytes of the CPU."""

    tensors: Tensor
    numbers: Tensor


class Leaf(NamedTuple):
    """One of the values: ``kind`` is bool, int, float or a tensor's dtype. ``stride`` is () where it is usual."""

    kind: Any
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    on_host: bool

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * (8 if self.kind in _NUMBERS else int(self.kind.itemsize))


class Fixed(NamedTuple):
    """A part that is no number and does not change while the form is this one: None, a text."""

    value: Any


def taken_apart(value: Any, leaves: list[Any], where: str) -> Any:
    """``value`` with a Leaf in the place of each tensor and number, which are appended to ``leaves``.

    Raises UserError for what is neither and may change; ``where`` says in which place.
    """
    if isinstance(value, Tensor):
        leaves.append(value)
        stride = () if value.is_contiguous() else torch.empty_like(value).stride()  # usual, where it overlaps
        return Leaf(value.dtype, tuple(value.shape), stride, value.device.type == "cpu")
    kind = type(value)
    if kind in _NUMBERS:
        leaves.append(value)
        return Leaf(kind, (), (), True)
    if kind is dict:
        return dict, tuple((key, taken_apart(one, leaves, f"{where}[{key!r}]")) for key, one in value.items())
    if kind in (list, tuple):
        return kind, tuple(taken_apart(one, leaves, f"{where}[{k}]") for k, one in enumerate(value))
    if value is None or kind in (str, torch.dtype, torch.device):
        return Fixed(value)
    raise UserError(
        f"it keeps a {kind.__name__} in {where}, which cannot be saved; tensors and numbers can, in lists, too"
    )


def put_together(tree: Any, leaves: Iterator[Any]) -> Any:
    """The inverse of :func:`taken_apart`."""
    if isinstance(tree, Leaf):
        return next(leaves)
    if isinstance(tree, Fixed):
        return tree.value
    kind, parts = tree
    if kind is dict:
        return {key: put_together(part, leaves) for key, part in parts}
    return kind(put_together(part, leaves) for part in parts)


@dataclass(frozen=True)
class Form:
    """One shape that the memory may have: its tree, its leaves, and the byte at which each begins in its row."""

    tree: Any
    leaves: tuple[Leaf, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, tree: Any, on_cpu: bool) -> Form:
        """``on_cpu``: models are there, so that all tensors lie together."""
        leaves = tuple(_leaves(tree))
        ends, starts = {True: _ALIGNED, False: 0}, []  # the first number says which form it is
        for leaf in leaves:
            at = in_numbers(leaf, on_cpu)
            starts.append(ends[at])
            ends[at] += -(-leaf.size // _ALIGNED) * _ALIGNED
        return cls(tree, leaves, tuple(starts))

    def bytes_of(self, numbers: bool, on_cpu: bool) -> int:
        """How long that row must be."""
        ends = [
            start + leaf.size
            for leaf, start in zip(self.leaves, self.starts, strict=True)
            if in_numbers(leaf, on_cpu) is numbers
        ]
        return -(-max(ends, default=1) // _ALIGNED) * _ALIGNED


def in_numbers(leaf: Leaf, on_cpu: bool) -> bool:
    """Whether a leaf is among the numbers: those, and on a GPU the tensors that stay on the host."""
    return leaf.kind in _NUMBERS or (leaf.on_host and not on_cpu)


def _leaves(tree: Any) -> Iterator[Leaf]:
    if isinstance(tree, Leaf):
        yield tree
    elif not isinstance(tree, Fixed):
        kind, parts = tree
        for part in parts:
            yield from _leaves(part[1] if kind is dict else part)


class Forms:
    """All forms that a trial has seen, in order; a row has room for any of them, and says which one it has."""

    def __init__(self, on_cpu: bool) -> None:
        self.on_cpu, self.forms = on_cpu, list[Form]()
        self._index: dict[Any, int] = {}

    def learn(self, tree: Any) -> None:
        """A form that the memory has had: what :func:`taken_apart` makes of it."""
        if tree not in self._index:
            self._index[tree] = len(self.forms)
            self.forms.append(Form.of(tree, self.on_cpu))

    def widths(self) -> tuple[int, int]:
        """Bytes of the two rows."""
        tensors, numbers = (
            max(form.bytes_of(which, self.on_cpu) for form in self.forms) for which in (False, True)
        )
        return tensors, numbers + _ALIGNED

    def read(self, row: Row) -> Any:
        """The memory; its tensors are views of the row where they can be."""
        numbers = row.numbers.numpy()
        form = self.forms[int(numbers[:8].view(np.int64)[0])]
        leaves = zip(form.leaves, form.starts, strict=True)
        return put_together(form.tree, (self._value(leaf, start, row, numbers) for leaf, start in leaves))

    def write(self, row: Row, memory: Any) -> None:
        """The memory into the row; what is a view of its place there stays. Raises UserError for another form."""
        values: list[Any] = []
        tree = taken_apart(memory, values, "state")
        if tree not in self._index:
            new = cut(_new_in(tree, self.forms[-1].tree), LONGEST_VALUE)
            raise UserError(
                f"what it remembers has a part now that it had not in the first steps, and so no room: {new}"
            )
        numbers, form = row.numbers.numpy(), self.forms[self._index[tree]]
        numbers[:8].view(np.int64)[0] = self._index[tree]
        moved: list[tuple[Tensor, Tensor]] = []
        for value, leaf, start in zip(values, form.leaves, form.starts, strict=True):
            if leaf.kind in _NUMBERS:
                numbers[start : start + leaf.size].view(_NUMBERS[leaf.kind])[0] = value
                continue
            place = self._value(leaf, start, row, numbers)
            if place.data_ptr() != value.data_ptr():
                moved.append((place, value.detach()))
        if len(moved) > 1:  # what is in another's place must be read before that is written to
            own = {part.untyped_storage().data_ptr() for part in row}
            moved = [(p, v.clone() if v.untyped_storage().data_ptr() in own else v) for p, v in moved]
        for place, value in moved:
            place.copy_(value)

    def _value(self, leaf: Leaf, start: int, row: Row, numbers: Any) -> Any:
        if leaf.kind in _NUMBERS:
            return leaf.kind(numbers[start : start + leaf.size].view(_NUMBERS[leaf.kind])[0])
        part = (row.numbers if in_numbers(leaf, self.on_cpu) else row.tensors)[start : start + leaf.size]
        flat = part.view(leaf.kind)
        return flat.as_strided(leaf.shape, leaf.stride) if leaf.stride else flat.view(leaf.shape)


def _new_in(tree: Any, other: Any) -> str:
    """The first part of a tree that the other has not so, in words."""
    known = dict(_parts(other, "memory"))
    for where, part in _parts(tree, "memory"):
        if known.get(where) != part:
            return (
                f"{where} is {part.value!r}" if isinstance(part, Fixed) else f"{where} of shape {part.shape}"
            )
    return "some are gone"


def _parts(tree: Any, where: str) -> Iterator[tuple[str, Leaf | Fixed]]:
    if isinstance(tree, Leaf | Fixed):
        yield where, tree
        return
    kind, parts = tree
    for key, part in parts if kind is dict else enumerate(parts):
        yield from _parts(part, f"{where}[{key!r}]")
