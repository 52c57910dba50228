"""Texts by characters: Tiny Shakespeare from its file, sums that need none, and batches of windows.

A split is a position in the text: training before, validation behind, no window in both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from decentral.errors import UserError
from decentral.problems.data.data_root import find_file
from topologies.streams import stream

TINY_SHAKESPEARE_HOME = "https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare"


@dataclass(frozen=True, eq=False)
class Text:
    """A text as tokens: token i is ``characters[i]``, in ascending order of code points; words of a text by words.

    ``unit``: what tokens are, "characters" or "words".
    ``train``, ``validation``: int64, (N,), shared by all who load the text in this process: do not write to them.
    """

    name: str
    characters: Sequence[str]
    train: Tensor
    validation: Tensor
    note: str
    unit: str = "characters"

    @property
    def vocabulary(self) -> int:
        """How many characters there are."""
        return len(self.characters)

    def decode(self, tokens: Tensor) -> str:
        """The characters of ``tokens`` (T,), or the words, with blanks between them."""
        between = "" if self.unit == "characters" else " "
        return between.join(self.characters[i] for i in tokens.tolist())


@functools.cache
def sums(root: Path | None = None) -> Text:
    """Lines ``a+b=c``: every pair of numbers below 100 once, 10,000 lines in the fixed order of (0, "text", "sums").

    No sum of the validation part, the last tenth, is in the training part. ``root`` is unused.
    """
    del root
    order = stream(0, "text", "sums").permutation(100 * 100).tolist()
    lines = [f"{a}+{b}={a + b}\n" for a, b in (divmod(i, 100) for i in order)]
    cut = len(lines) * 9 // 10
    return by_characters(
        "sums", "".join(lines[:cut]), "".join(lines[cut:]), "first 9,000 lines of 10,000 for training"
    )


@functools.cache
def tiny_shakespeare(root: Path | None) -> Text:
    """1,115,394 characters of Shakespeare's plays, 65 distinct ones; the first 90 % for training."""
    path = find_file(root, "tinyshakespeare", ["input.txt"], TINY_SHAKESPEARE_HOME)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, found {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); see to its permissions") from error
    if "\0" in text:
        raise UserError(f"{path}: it holds NUL bytes, as UTF-16 does; save it as UTF-8")
    cut = len(text) * 9 // 10
    return by_characters(
        "tiny-shakespeare", text[:cut], text[cut:], "first 90 % of the characters for training"
    )


def text_batches(
    tokens: Tensor, context: int, batch_size: int, seed: int, worker: int = 0
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Step t -> inputs (B, T) and targets (B, T), int64: windows of T = ``context`` tokens and the tokens that follow.

    The B starts of step t are uniform, with replacement, from the stream (seed, "text", worker, t): a pure function.
    Raises UserError if a size is below one, or if the tokens are too few for one window.
    """
    _check(tokens, context, batch_size)
    offsets = torch.arange(context + 1)

    def batch(t: int) -> tuple[Tensor, Tensor]:
        starts = stream(seed, "text", worker, t).integers(len(tokens) - context, size=batch_size)
        windows = tokens[torch.from_numpy(starts)[:, None] + offsets]
        return windows[:, :-1], windows[:, 1:]

    return batch


def text_windows(tokens: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """All inputs and targets (N, T) of windows one after the other, for evaluation; a shorter rest is left out."""
    _check(tokens, context, 1)
    count = (len(tokens) - 1) // context
    length = count * context
    return tokens[:length].view(count, context), tokens[1 : length + 1].view(count, context)


def by_characters(name: str, train: str, validation: str, note: str) -> Text:
    """A text of these two parts."""
    points = np.frombuffer((train + validation).encode("utf-32-le"), np.uint32)
    alphabet, tokens = np.unique(points, return_inverse=True)
    both = torch.from_numpy(tokens.astype(np.int64))
    return Text(name, "".join(map(chr, alphabet)), both[: len(train)], both[len(train) :], note)


def _check(tokens: Tensor, context: int, batch_size: int) -> None:
    if context < 1 or batch_size < 1:
        raise UserError(f"context = {context} and batch_size = {batch_size} must be at least 1")
    if len(tokens) <= context:
        raise UserError(
            f"the text has {len(tokens)} tokens, too few for context = {context}; it needs one more than that"
        )
