"""Texts of a user's own: any text file, by characters or by words, its first 90 % for training."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from decentral.errors import UserError
from decentral.problems.data.data_root import text_of
from decentral.problems.data.text import Text, by_characters
from topologies.wording import shown

UNKNOWN = "<unknown>"
"""Word 0: every word that is not in the vocabulary."""
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]|\n")


@functools.cache
def of_file(path: Path) -> Text:
    """The characters of a file in UTF-8. Raises UserError that names it."""
    text = text_of(path)
    cut = len(text) * 9 // 10
    if not cut:
        raise UserError(f"{path}: it holds {len(text)} characters, too few for a text; give a longer file")
    return by_characters(path.name, text[:cut], text[cut:], "first 90 % of the characters for training")


@functools.cache
def by_words(text: Text, most: int) -> Text:
    """The same text by words: ``most`` of them at the most, those that its training part has most often.

    A word is a run of letters and digits, with apostrophes inside; any other visible sign; or the end of a line. Token
    0 is every other word; then come words by frequency, equals as they come first. The text is cut where it was.
    """
    train, validation = (_WORD.findall(text.decode(part)) for part in (text.train, text.validation))
    if not train or not validation:
        raise UserError(f'the text {shown(text.name)} has a part without words; use tokens = "characters"')
    words = [UNKNOWN, *(word for word, _ in Counter(train).most_common(most - 1))]
    number = {word: i for i, word in enumerate(words)}

    def tokens(part: list[str]) -> Tensor:
        return torch.tensor([number.get(word, 0) for word in part])

    known = 1 - float((tokens(validation) == 0).float().mean())
    note = f"{text.note}; {len(words):,} words, {known:.1%} of the rest among them"
    return Text(text.name, tuple(words), tokens(train), tokens(validation), note, "words")


def file_below(root: str, name: str) -> Path:
    """The file of that name below ``root``, else below $DECENTRAL_DATA. Raises UserError."""
    given = root or os.environ.get("DECENTRAL_DATA", "")
    if not given and not Path(name).is_absolute():
        raise UserError(
            f"text_file = {shown(name)} is looked for below a data root; give data_root or set DECENTRAL_DATA"
        )
    path = Path(given).expanduser() / name
    if not path.is_file():
        raise UserError(f"text_file = {shown(name)}: there is no file {path}; name one below the data root")
    return path
