"""The inner loops of compressors on long vectors, compiled: what their numpy and torch do in more passes, in its bits.

All arrays are contiguous. An index that could be negative is not vectorised, and slow: so inner loops run over slices
from 0, and what counts is unsigned. Loops are short, with one array written: more are not vectorised either.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from decentral.comm.compression.packets import Array
from decentral.kernels import fma, kernel

_BLOCK = 1 << 12  # entries


@kernel
def mark_not_below(x: Array, least: Any, marks: Array) -> None:
    """Whether not \\|x_i\\| < least, so also for NaN: bool (d,)."""
    for i in range(len(x)):
        marks[i] = not (abs(x[i]) < least)


@kernel
def positions(marks: Array, places: Array) -> int:
    """How many of bool (d,) are True, and their ascending positions in ``places`` (d + 1,).

    No branch is mispredicted: what is not set is overwritten, and only words of 8 marks with one are looked at.
    """
    whole, count, n = len(marks) // 8 * 8, np.uint64(0), np.uint64(0)
    words, rest = marks[:whole].view(np.uint64), marks[whole:]
    hits = np.empty(len(words) + 1, np.int64)
    for word in range(len(words)):
        hits[n] = word
        n += np.uint64(words[word] != 0)
    for word in hits[:n]:
        row = marks[8 * word : 8 * word + 8]
        for k in range(8):
            places[count] = 8 * word + k
            count += np.uint64(row[k])
    for i in range(len(rest)):
        places[count] = whole + i
        count += np.uint64(rest[i])
    return int(count)


@kernel
def mark_ahead(x: Array, total: Array, bits: Array, width: int, largest: Array, marks: Array) -> None:
    """AdaComp's choice: G = total + x in ``total``, max |G| of each bin, and whether |G + x| >= it, bool (d,).

    ``bits``: ``total`` as whole numbers, by whose order magnitudes are compared, NaN above all.
    """
    top = np.iinfo(bits.dtype).max
    sizes = largest.view(bits.dtype)
    for b in range(len(largest)):
        start = b * width
        change, sums = x[start : start + width], total[start : start + width]
        seen, ahead = bits[start : start + width], marks[start : start + width]
        for i in range(len(sums)):
            sums[i] += change[i]
        most = bits.dtype.type(0)
        for i in range(len(seen)):
            most = max(most, bits.dtype.type(seen[i] & top))
        sizes[b] = most
        for i in range(len(sums)):
            ahead[i] = abs(sums[i] + change[i]) >= largest[b]


@kernel
def send_marked(marks: Array, scale: Any, width: int, total: Array, sent: Array, codes: Array) -> int:
    """AdaComp's packet of one span: Gq in ``sent`` (n,), of the ``marks``, filled up to whole eights, where G is not 0.

    Takes it out of G = ``total`` (n,); gives the number of ``codes``, those of ``bins.bin_codes``. In blocks, so that
    zeros are in cache when something is entered.
    """
    bits, count, closed, stop = 8 * codes.itemsize, np.uint64(0), np.uint64(0), np.uint64(width)
    negative, last, empty = 1 << bits - 2, 1 << bits - 1, (1 << bits - 2) - 1 | 1 << bits - 1
    one, step, end = np.uint64(1), np.uint64(width), np.uint64(len(total))
    hits, places = np.empty(_BLOCK // 8 + 1, np.int64), np.empty(_BLOCK + 1, np.uint64)
    for start in range(0, len(total), _BLOCK):
        sent[start : start + _BLOCK] = 0
        words, n, found = marks[start : start + _BLOCK].view(np.uint64), np.uint64(0), np.uint64(0)
        for word in range(len(words)):
            hits[n] = word
            n += np.uint64(words[word] != 0)
        for word in hits[:n]:
            row = marks[start + 8 * word : start + 8 * word + 8]
            for k in range(8):
                places[found] = start + 8 * word + k
                found += np.uint64(row[k])
        for place in places[:found]:
            taken = total[place]
            if taken == 0:  # without this a bin of zeros would be sent as a whole
                continue
            while place >= stop:
                if count > closed:
                    codes[count - one] |= last
                else:
                    codes[count] = empty
                    count += one
                closed, stop = count, stop + step
            value = scale if taken > 0 else -scale
            sent[place] = value
            total[place] = taken - value
            codes[count] = np.int64(place + step - stop) | negative * (taken < 0)
            count += one
    while stop < end + step:
        if count > closed:
            codes[count - one] |= last
        else:
            codes[count] = empty
            count += one
        closed, stop = count, stop + step
    return int(count)


@kernel
def round_levels(
    x: Array, table: Array, passages: Array, bucket: int, scales: Array, steps: Array, zero: Any, codes: Array,
    sent: Array,
) -> None:  # fmt: skip
    """QSGD's codes (d,), floor(scale x + noise), and what they mean, ``sent`` (d,), (code - zero) step.

    A scale and a step for each bucket. Noise is that of a table and of passages through it, as in ``noise.Noise``.
    """
    noise = np.empty(len(table), x.dtype)
    noise_bits, start = noise.view(table.dtype), 0
    for p in range(len(passages)):
        for i in range(len(table)):
            noise_bits[i] = table[i] ^ passages[p]
        end = min(start + len(table), len(x))
        while start < end:
            b = start // bucket
            stop, skip = min((b + 1) * bucket, end), start - p * len(table)
            row, offsets = x[start:stop], noise[skip : skip + stop - start]
            found, values, scale, step = codes[start:stop], sent[start:stop], scales[b], steps[b]
            for i in range(len(row)):
                level = np.int32(fma(row[i], scale, offsets[i]))
                found[i] = level
                values[i] = (x.dtype.type(level) - zero) * step
            start = stop


@kernel
def pack_field(rows: Array, out: Array) -> None:
    """The lowest 4 bits of two rows, or 2 of four, side by side: uint8 (rows, n) to (n,)."""
    if len(rows) == 2:
        a, b = rows[0], rows[1]
        for i in range(len(out)):
            out[i] = a[i] & 15 | b[i] << 4
    else:
        a, b, c, d = rows[0], rows[1], rows[2], rows[3]
        for i in range(len(out)):
            out[i] = a[i] & 3 | (b[i] & 3) << 2 | (c[i] & 3) << 4 | d[i] << 6


@kernel
def split_signs(bits: Array, scale: Any, sent: Array, negative: Array) -> None:
    """The scale with the sign of x, both as whole numbers, (n,), and whether x is negative, bool (n,)."""
    least = np.iinfo(bits.dtype).min
    for i in range(len(bits)):
        sent[i] = bits[i] & least | scale
        negative[i] = bits[i] < 0


@kernel
def thin_product(p: Array, q: Array, out: Array) -> None:
    """P Q' (m, n) of P' (r, m) and Q' (r, n), summed over r ascending."""
    for i in range(len(out)):
        row = out[i]
        for j in range(len(q)):
            left, right = p[j, i], q[j]
            for k in range(len(row)):
                row[k] = left * right[k] if j == 0 else row[k] + left * right[k]
