"""One module for all hosted workers: whose parameters and buffers it has at a time, and what a pass leaves in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from decentral.errors import UserError
from topologies.wording import shown

Slot = tuple[dict[str, Tensor | None], str]
"""A module's own dictionary, and the name of a buffer in it."""


def stacked_buffers(module: nn.Module, h: int) -> dict[str, Tensor]:
    """One contiguous (h, *shape) tensor for each buffer: a row-strided view would silently stay stale under vmap.

    A buffer that is no dense tensor (a sparse matrix) has no rows: it is the module's, and a constant.
    """
    return {
        name: buffer.unsqueeze(0).expand(h, *buffer.shape).clone(memory_format=torch.contiguous_format)
        for name, buffer in module.named_buffers()
        if has_rows(buffer)
    }


def has_rows(buffer: Tensor) -> bool:
    """Whether each worker can have one of its own."""
    return buffer.layout is torch.strided and not buffer.is_quantized


class BufferRows:
    """The buffers that ``module`` has while a worker's pass goes on, and their rows: ``rows`` name -> (h, *shape)."""

    def __init__(self, module: nn.Module, rows: Mapping[str, Tensor]) -> None:
        self.slots = [(name, rows[name], of) for name, of in slots_of(module).items() if name in rows]
        self._lent: list[Tensor] = []

    def lend(self, row: int) -> None:
        """The module has the buffers of that row: what it writes in place is written there."""
        self._lent = [rows[row] for _, rows, _ in self.slots]
        for one, (_, _, slots) in zip(self._lent, self.slots, strict=True):
            for owner, key in slots:
                owner[key] = one

    def take_back(self) -> None:
        """What the module has put in the place of a buffer, by assignment, is copied to its row."""
        for one, (name, _, slots) in zip(self._lent, self.slots, strict=True):
            for owner, key in slots:
                if (now := owner[key]) is not one:
                    one.copy_(alike(name, one, now))
                    break


def slots_of(module: nn.Module) -> dict[str, list[Slot]]:
    """Where each buffer is held: one that several modules have is under its first name, at all its places."""
    names: dict[int, str] = {}
    found: dict[str, list[Slot]] = {}
    for name, buffer in module.named_buffers(remove_duplicate=False):
        path, _, key = name.rpartition(".")
        first = names.setdefault(id(buffer), name)
        found.setdefault(first, []).append((module.get_submodule(path)._buffers, key))
    return found


def alike(name: str, before: Tensor, now: Tensor | None) -> Tensor:
    """What a pass has assigned to buffer ``name``. Raises UserError for another shape or type."""
    if now is not None and now.shape == before.shape and now.dtype == before.dtype:
        return now.detach()
    raise UserError(
        f"the model's buffer {shown(name)} is {_described(before)}, and after a pass {_described(now)}; register it "
        "with the shape and the type that it keeps"
    )


def _described(tensor: Tensor | None) -> str:
    return "None" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


@contextmanager
def standing_for(
    module: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> Iterator[None]:
    """Inside, the module has these parameters and copies of these buffers; afterwards it is as before.

    Other than ``functional_call`` this holds for parameters that the module knows by other names too.
    """
    named = dict(module.named_parameters())
    had = {name: named[name].data for name in parameters}
    copies = {name: value.clone() for name, value in buffers.items()}
    places = [(*slot, copies[name]) for name, of in slots_of(module).items() if name in copies for slot in of]
    held = [owner[key] for owner, key, _ in places]
    try:
        for name, value in parameters.items():
            named[name].data = value
        for owner, key, value in places:
            owner[key] = value
        yield
    finally:
        for name, value in had.items():
            named[name].data = value
        for (owner, key, _), before in zip(places, held, strict=True):
            owner[key] = before
