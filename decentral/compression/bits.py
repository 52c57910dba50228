"""Small whole numbers as bits: bit j of all numbers side by side, one plane after the other."""

from __future__ import annotations

import numpy as np

from decentral.compression.packets import Array


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of ``count`` numbers of so many bits: each plane is filled up to whole bytes."""
    return bits * -(-count // 8)


def pack(codes: Array, bits: int) -> Array:
    """Numbers (count,) of an unsigned dtype, below 2^bits, as uint8 (packed_bytes,)."""
    return np.concatenate([np.packbits(codes & codes.dtype.type(1 << j)) for j in range(bits)])


def unpack(packed: Array, count: int, bits: int) -> Array:
    """The numbers (count,), uint8 or uint16."""
    planes = packed.reshape(bits, -1)
    codes = np.zeros(count, code_type(bits))
    for j, plane in enumerate(planes):
        codes |= np.unpackbits(plane, count=count).astype(codes.dtype, copy=False) << j
    return codes


def code_type(bits: int) -> type[np.uint8] | type[np.uint16]:
    """The unsigned dtype that holds so many bits, at most 16."""
    return np.uint8 if bits <= 8 else np.uint16
