"""List reduction: a first token names one of four operations on the digits that follow; answer with its result.

- 14 tokens: 0..9 are the digits, 10..13 the operations. A list L has 1 to 9 digits, so an instance 2 to 10 tokens.
- 10: mean(L). 11: mean(L[0::2]) - mean(L[1::2]). 12: max(L) - min(L). 13: len(L). The mean of no digits is 0.
- The exact result is rounded half up, floor(r + 1/2): 2.5 to 3 and -2.5 to -2. (Python's round() goes to even.)
- The label is the rounded result mod 10, in 0..9, also where it is negative: -2 gives 8.
- Operation, length and digits are uniform and independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decentral.errors import UserError
from topologies.streams import stream

DIGITS = 10
MEAN, ALTERNATING, RANGE, LENGTH = range(DIGITS, DIGITS + 4)
TOKENS = DIGITS + 4
CLASSES = 10
PADDING = -1
"""Fills rows behind their end; no token, so an embedding that is shown one raises an error."""


@dataclass(frozen=True, eq=False)
class ListInstance:
    """One sequence: ``tokens`` int64, (T,), the operation first; ``label`` 0..9."""

    tokens: Tensor
    label: int


@dataclass(frozen=True, eq=False)
class Lists:
    """N instances; row i holds ``lengths[i]`` tokens, then `PADDING`. All int64; do not write to them.

    ``tokens``: (N, 1 + longest list). ``lengths``: (N,), tokens of an instance, the operation included.
    ``labels``: (N,), 0..9.
    """

    tokens: Tensor
    lengths: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> ListInstance:
        return ListInstance(self.tokens[i, : self.lengths[i]], int(self.labels[i]))


def label(tokens: Sequence[int]) -> int:
    """The label 0..9 of ``tokens``, an operation and its digits, in exact integer arithmetic.

    Raises UserError for what is no operation followed by at least one digit.
    """
    operation, digits = tokens[0] if tokens else None, tokens[1:]
    if not digits or not all(0 <= digit < DIGITS for digit in digits):
        raise UserError(f"tokens {list(tokens)}: expected an operation and then at least one digit 0 to 9")
    if operation == MEAN:
        above, below = sum(digits), len(digits)
    elif operation == ALTERNATING:
        even, odd = digits[0::2], digits[1::2]
        evens, odds = len(even), len(odd) or 1
        above, below = sum(even) * odds - sum(odd) * evens, evens * odds
    elif operation == RANGE:
        above, below = max(digits) - min(digits), 1
    elif operation == LENGTH:
        above, below = len(digits), 1
    else:
        raise UserError(f"token {operation} is no operation; expected {DIGITS} to {TOKENS - 1}")
    return (2 * above + below) // (2 * below) % CLASSES  # // goes down also below 0, % is then in 0..9


def draw_lists(part: str, count: int, longest: int = 9) -> Lists:
    """The first ``count`` instances of the stream (0, "list-reduction", part), with lists of 1..``longest`` digits.

    A larger ``count`` goes on where a smaller one stops. Raises UserError if a size is below one.
    """
    if count < 1 or longest < 1:
        raise UserError(f"count = {count} and longest = {longest} must be at least 1")
    choices = [TOKENS - DIGITS, longest, *[DIGITS] * longest]
    drawn = stream(0, "list-reduction", part).integers(choices, size=(count, len(choices)))
    lengths = drawn[:, 1] + 2
    tokens = np.concatenate([drawn[:, :1] + DIGITS, drawn[:, 2:]], axis=1)
    tokens[np.arange(1 + longest) >= lengths[:, None]] = PADDING
    labels = [label(row[:length]) for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    return Lists(torch.from_numpy(tokens), torch.from_numpy(lengths), torch.tensor(labels))


def list_reduction(train: int = 100_000, validation: int = 10_000, longest: int = 9) -> tuple[Lists, Lists]:
    """Training and validation instances, from a stream each.

    Short lists are few, so they are in both: by default 35 % of the validation instances are also training instances,
    all with 1 or 2 digits, 24 % with 4, 0.7 % with 6 and none with more.
    """
    return draw_lists("train", train, longest), draw_lists("validation", validation, longest)
