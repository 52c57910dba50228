"""A program as machine code."""

from __future__ import annotations

import ctypes
import threading
from functools import cache

import numpy as np
import torch
from torch import Tensor

from decentral.comm.order import RowOrder
from decentral.comm.plan import MixingPlan
from decentral.rounds.fused.program import Program

_IN_CACHE = 1 << 20  # bytes of the rows that are kept, and of those read and written meanwhile
_LEAST, _MOST = 64, 8192  # columns a tile
_own = threading.local()


class Kernel:
    """Machine code of ``program`` on numbers of ``dtype``, which several threads may call at once."""

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        from decentral.rounds.fused.machine import compiled  # here: both need llvmlite
        from decentral.rounds.fused.text import PARAMETERS, SIZES, text_of

        self.program, self.dtype = program, dtype
        self.mixes, self.means = len(program.sources("mix")), len(program.sources("mean"))
        self.engine, address = compiled(text_of(program, dtype.itemsize), "fused")
        kinds = [ctypes.c_int64 if name in SIZES else ctypes.c_void_p for name in PARAMETERS]
        self.call = ctypes.CFUNCTYPE(None, *kinds)(address)

    def order(self, plan: MixingPlan) -> RowOrder:
        """Of the rows: what is averaged has all of them before the first is done."""
        return _all_at_once(plan.n) if self.means else plan.order

    def tile(self, order: RowOrder) -> int:
        """Columns whose rows in use stay in cache."""
        rows = self.mixes * order.slots + 2 * self.program.inputs
        columns = _IN_CACHE // (rows * self.dtype.itemsize)
        return min(max(columns // _LEAST, 1) * _LEAST, _MOST)

    def __call__(self, tensors: list[Tensor], numbers: Tensor, order: RowOrder, weights: Tensor) -> None:
        """A round of all columns of the ``tensors`` (h, b), a row's columns side by side; some are overwritten."""
        h, width = tensors[0].shape
        tile, count = self.tile(order), len(tensors)
        pitch = tile + 64 // self.dtype.itemsize  # no power of two: caches find places by the last bits
        slots = self.mixes * order.slots
        kept = _scratch((slots + self.means) * pitch, self.dtype)
        arrays = (ctypes.c_void_p * count)(*[tensor.data_ptr() for tensor in tensors])
        strides = (ctypes.c_int64 * count)(*[tensor.stride(0) for tensor in tensors])
        ordered = (order.ready_from, order.ready, order.into, order.terms_from, order.terms)
        self.call(
            arrays, strides, numbers.data_ptr(),
            kept, pitch, order.slots, kept + slots * pitch * self.dtype.itemsize,
            *[array.ctypes.data for array in ordered], weights.data_ptr(),
            h, width, tile,
        )  # fmt: skip

    def alone(self, tensors: list[Tensor], numbers: Tensor) -> None:
        """Of a program in which rows do not meet."""
        self(tensors, numbers, _all_at_once(tensors[0].shape[0]), numbers)


@cache
def _all_at_once(h: int) -> RowOrder:
    """An order for rows that have no neighbours."""
    return RowOrder.of(np.zeros(h + 1, dtype=np.int32), np.zeros(0, dtype=np.int32), at_once=True)


def _scratch(size: int, dtype: torch.dtype) -> int:
    """The address of so many numbers that are this thread's own."""
    kept: Tensor | None = getattr(_own, "kept", None)
    if kept is None or kept.nbytes < size * dtype.itemsize:
        kept = _own.kept = torch.empty(size, dtype=dtype)
    return kept.data_ptr()
