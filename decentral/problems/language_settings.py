"""Language modelling of a text, character by character: the settings of two problems, by model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decentral.problems.objective import check_positive

if TYPE_CHECKING:
    from torch import nn

    from decentral.problems.text import Text


@dataclass(frozen=True)
class Language:
    """Mean cross-entropy of the next character over windows of ``context`` characters. For stages only.

    ``text``: sums (embedded: additions written out) or tiny-shakespeare, read below ``data_root`` (or the environment
    variable DECENTRAL_DATA).
    """

    text: Literal["sums", "tiny-shakespeare"] = "sums"
    data_root: str = ""
    context: int = 32

    def __post_init__(self) -> None:
        check_positive(context=self.context)

    def prepare(self, workers: int, seed: int) -> None:
        """Read the text and build the model once, so that every mistake is found before any run starts."""
        del workers
        from decentral.problems.text import load_text

        self.model(load_text(self.text, self.data_root or None), seed)

    def model(self, text: Text, seed: int) -> nn.Module:
        """A fresh model, initialised from the seed."""
        raise NotImplementedError


@dataclass(frozen=True)
class Transformer(Language):
    """A small decoder-only transformer: ``depth`` layers of ``width`` features and ``heads`` attention heads."""

    width: int = 64
    depth: int = 2
    heads: int = 4

    def model(self, text: Text, seed: int) -> nn.Module:
        """See :class:`Language`."""
        from decentral.problems.language import transformer
        from decentral.problems.models import initialise

        size = len(text.characters)
        return initialise(lambda: transformer(size, self.context, self.width, self.depth, self.heads), seed)


@dataclass(frozen=True)
class LSTM(Language):
    """A long short-term memory language model: ``depth`` layers of ``width`` features."""

    width: int = 128
    depth: int = 2

    def model(self, text: Text, seed: int) -> nn.Module:
        """See :class:`Language`."""
        from decentral.problems.language import lstm
        from decentral.problems.models import initialise

        return initialise(lambda: lstm(len(text.characters), self.width, self.depth), seed)
