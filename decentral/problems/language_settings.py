"""Language modelling of a text, character by character: the settings of two problems, by model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from decentral.problems.capabilities import BatchSize, Draw, Made
from decentral.problems.data import TEXTS, load_text
from decentral.problems.objective import check_positive
from decentral.problems.of_module import OfModule
from decentral.problems.sizes import check_layers
from decentral.tables import OneOf

if TYPE_CHECKING:
    from torch import nn

    from decentral.problems.data.text import Text


@dataclass(frozen=True)
class Language(OfModule):
    """Mean cross-entropy of the next character over windows of ``context`` characters, in nats.

    ``text``: see ``decentral list data``; texts that are not embedded are read below ``data_root`` (or the environment
    variable DECENTRAL_DATA). ``partition``: "contiguous", worker i has the i-th stretch of the text; "iid", windows
    are dealt at random.
    """

    text: Annotated[str, OneOf(TEXTS)] = "sums"
    data_root: str = ""
    partition: Literal["iid", "contiguous"] = "contiguous"
    context: int = 32

    def __post_init__(self) -> None:
        check_positive(context=self.context)

    def most_workers(self) -> int:
        """See :class:`decentral.problems.capabilities.Dealt`: windows."""
        from decentral.problems.data.windows import windows_of

        return len(windows_of(self.read(), self.context).train_y)

    def read(self) -> Text:
        """The text."""
        return load_text(self.text, self.data_root or None)

    def made(self, workers: int, seed: int) -> Made:
        """See :class:`decentral.problems.capabilities.Layered`."""
        from decentral.problems.data.windows import deal_windows, windows_of

        text = self.read()
        windows = windows_of(text, self.context)
        return Made(
            self.model(text, seed), windows, deal_windows(windows, workers, self.partition, seed, text.unit)
        )

    def batches(self, made: Made, seed: int, batch_size: BatchSize) -> Draw:
        """See :class:`decentral.problems.capabilities.Layered`: windows anywhere in a worker's stretch of the text."""
        from decentral.problems.step_batches import of_stretches

        return of_stretches(self.read(), self.context, len(made.shards), seed, batch_size)


@dataclass(frozen=True)
class Transformer(Language):
    """A small decoder-only transformer: ``depth`` layers of ``width`` features and ``heads`` attention heads."""

    width: int = 64
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(depth=self.depth)

    def network(self, text: Text) -> nn.Module:
        """See :class:`Language`."""
        from decentral.problems.models.language import transformer

        return transformer(len(text.characters), self.context, self.width, self.depth, self.heads)


@dataclass(frozen=True)
class LSTM(Language):
    """A long short-term memory language model: ``depth`` layers of ``width`` features."""

    width: int = 128
    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(depth=self.depth)

    def network(self, text: Text) -> nn.Module:
        """See :class:`Language`."""
        from decentral.problems.models.language import lstm

        return lstm(len(text.characters), self.width, self.depth)
