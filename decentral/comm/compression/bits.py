"""Small whole numbers as bits, side by side, in fields of 8, 4, 2 or 1 bits: 5 bits are a field of 4 and one of 1.

A field of w bits of n numbers, n filled up to whole eights, is n w / 8 bytes. Byte i holds those of the numbers i,
i + n w / 8, i + 2 n w / 8 and so on, from its low bits up; a field of one bit has eight neighbours in a byte, the first
in the highest bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decentral.comm.compression import loops
from decentral.comm.compression.packets import Array
from decentral.kernels import repaid


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of ``count`` numbers of so many bits."""
    return bits * -(-count // 8)


def pack(codes: Array, bits: int) -> Array:
    """Numbers (count,) of ``code_type``, below 2^bits, as uint8 (packed_bytes,)."""
    n = -(-len(codes) // 8) * 8
    if len(codes) < n:
        codes = np.append(codes, np.zeros(n - len(codes), codes.dtype))
    parts = list[Array]()
    quick = repaid(n)
    for width, shift in _fields(bits):
        if width == 1:
            parts.append(np.packbits(codes >= 1 << shift))  # only the last field has one bit
        else:
            rows = codes if shift == 0 else codes >> codes.dtype.type(shift)
            rows = rows.astype(np.uint8, copy=False).reshape(8 // width, -1)
            if quick and width < 8:
                parts.append(np.empty(rows.shape[1], np.uint8))
                loops.pack_field(rows, parts[-1])
                continue
            field = rows[0] & np.uint8((1 << width) - 1)
            for j, row in enumerate(rows[1:], 1):
                above = row if j == len(rows) - 1 else row & np.uint8((1 << width) - 1)
                field |= above * np.uint8(1 << j * width)  # modulo 256
            parts.append(field)
    return np.concatenate(parts)


def unpack(packed: Array, count: int, bits: int) -> Array:
    """The numbers (count,), of ``code_type``."""
    n = -(-count // 8)
    codes = np.zeros(8 * n, code_type(bits))
    for width, shift in _fields(bits):
        field, packed = packed[: width * n], packed[width * n :]
        if width == 1:
            codes |= np.unpackbits(field).astype(codes.dtype, copy=False) << shift
        else:
            for j, part in enumerate(codes.reshape(8 // width, -1)):
                part |= (field >> j * width & (1 << width) - 1).astype(codes.dtype, copy=False) << shift
    return codes[:count]


def _fields(bits: int) -> Iterator[tuple[int, int]]:
    """Width of each field, and where in a number it begins."""
    shift = 0
    while shift < bits:
        width = 1 << min(3, (bits - shift).bit_length() - 1)
        yield width, shift
        shift += width


def code_type(bits: int) -> type[np.uint8] | type[np.uint16]:
    """The unsigned dtype that holds so many bits, at most 16."""
    return np.uint8 if bits <= 8 else np.uint16
