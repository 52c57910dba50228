"""A message as bytes: its tensors as they lie in memory, one after the other, and a *form* that says what they are.

Tensors, and lists and tuples of them to any depth, are copied; any other value is pickled and is meant to be small.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

import torch
from torch import Tensor

_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
_TENSOR, _CUDA, _LIST, _TUPLE, _PICKLED = range(5)
_ALIGNED = 64  # a part may be viewed as any dtype


def flattened(value: Any) -> tuple[bytes, list[Tensor]]:
    """The value's form and its tensors in order, without their graphs.

    A pickled value is one more tensor, of bytes. Raises TypeError for a dtype that cannot travel.
    """
    form, tensors = bytearray(), list[Tensor]()
    _add(value, form, tensors)
    return bytes(form), tensors


def packed_bytes(tensors: list[Tensor]) -> int:
    """Bytes that :func:`pack` needs."""
    return sum(map(_room, tensors))


def pack(tensors: list[Tensor], room: Tensor) -> None:
    """Copy the tensors into ``room``, a flat uint8 tensor."""
    at = 0
    for x in tensors:
        room[at : at + x.nbytes].view(x.dtype).view(x.shape).copy_(x)
        at += _room(x)


def restored(form: bytes, room: Tensor) -> Any:
    """The value of this form. Its tensors are parts of ``room``, or copies of them where it lies elsewhere."""
    return _Reader(form, room).value()


def _room(x: Tensor) -> int:
    return -(-x.nbytes // _ALIGNED) * _ALIGNED


def _add(value: Any, form: bytearray, tensors: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        if value.dtype not in _CODES or value.layout != torch.strided:
            raise TypeError(f"a {value.dtype} tensor ({value.layout}) cannot travel; send dense numbers")
        kind = _CUDA if value.is_cuda else _TENSOR
        form += struct.pack(f"<BBB{value.dim()}q", kind, _CODES[value.dtype], value.dim(), *value.shape)
        tensors.append(value.detach())
    elif isinstance(value, list | tuple):
        form += struct.pack("<BI", _LIST if isinstance(value, list) else _TUPLE, len(value))
        for part in value:
            _add(part, form, tensors)
    else:
        pickled = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        form += struct.pack("<BQ", _PICKLED, len(pickled))
        tensors.append(pickled)


class _Reader:
    """Reads a form once, from its beginning."""

    def __init__(self, form: bytes, room: Tensor) -> None:
        self.form, self.room = form, room
        self.read = self.taken = 0  # bytes of the form, bytes of the room

    def value(self) -> Any:
        (kind,) = self._numbers("<B")
        if kind in (_LIST, _TUPLE):
            (length,) = self._numbers("<I")
            parts = [self.value() for _ in range(length)]
            return parts if kind == _LIST else tuple(parts)
        if kind == _PICKLED:
            return pickle.loads(self._tensor(torch.uint8, self._numbers("<Q")).numpy().tobytes())
        code, dimensions = self._numbers("<BB")
        x = self._tensor(_DTYPES[code], self._numbers(f"<{dimensions}q"))
        return x.to("cuda" if kind == _CUDA else "cpu")

    def _numbers(self, layout: str) -> tuple[int, ...]:
        found = struct.unpack_from(layout, self.form, self.read)
        self.read += struct.calcsize(layout)
        return found

    def _tensor(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        part = self.room[self.taken : self.taken + torch.Size(shape).numel() * dtype.itemsize]
        self.taken += _room(part)
        # .data: a view would count in-place changes together with the other tensors of the message, and
        # autograd would refuse the graph of one because another was changed
        return part.view(dtype).view(shape).data
