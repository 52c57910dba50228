"""Language modelling of a text, character by character: the settings of two problems, by model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from decentral.problems.capabilities import BatchSize, Draw, Made
from decentral.problems.data import TEXTS, load_text
from decentral.problems.objective import OF_SAMPLES, Place, check_positive
from decentral.problems.sizes import check_layers, refuse_models
from decentral.tables import OneOf

if TYPE_CHECKING:
    from torch import nn

    from decentral.problems.data.text import Text
    from decentral.problems.model_objective import ModelObjective
    from decentral.problems.models.tried import Tried


@dataclass(frozen=True)
class Language:
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

    def check(self, batch_size: BatchSize, weight_decay: float) -> None:
        """What can be told before the text is read: nothing more."""
        del batch_size, weight_decay

    def prepare(self, workers: int, seed: int) -> object:
        """Read the text and build the model once, so that every mistake is found before any run starts."""
        refuse_models(self, 1, 4)
        return self.made(workers, seed)

    def network(self, text: Text) -> nn.Module:
        """The model for the text, its parameters drawn from torch's generator."""
        raise NotImplementedError

    def model(self, text: Text, seed: int) -> nn.Module:
        """A fresh model, initialised from the seed."""
        from decentral.problems.models.initialise import initialise

        return initialise(lambda: self.network(text), seed)

    def most_workers(self) -> int:
        """See :class:`decentral.problems.capabilities.Dealt`: windows."""
        from decentral.problems.data.windows import windows_of

        return len(windows_of(load_text(self.text, self.data_root or None), self.context).train_y)

    def columns(self, workers: int, weight_decay: float) -> tuple[str, ...]:
        """See :class:`decentral.problems.capabilities.Measured`."""
        del workers, weight_decay
        return OF_SAMPLES

    def parameters(self) -> int:
        """See :class:`decentral.problems.capabilities.Sized`."""
        from decentral.problems.models.initialise import parameter_count

        text = load_text(self.text, self.data_root or None)
        return parameter_count(lambda: self.network(text))

    def least_bytes(self, workers: int, itemsize: int) -> float:
        """The text is there once, and is read before: nothing more."""
        del workers, itemsize
        return 0.0

    def build(self, place: Place) -> ModelObjective:
        """The objective of the hosted workers."""
        from decentral.problems.model_objective import ModelObjective

        made = self.made(place.workers, place.seed)
        return ModelObjective(*made, place, self.tried(made, place))

    def tried(self, made: Made, place: Place) -> Tried:
        """See :class:`decentral.problems.capabilities.Layered`."""
        from decentral.problems.rehearsal import rehearsed

        return rehearsed(self, made, place)

    def made(self, workers: int, seed: int) -> Made:
        """See :class:`decentral.problems.capabilities.Layered`."""
        from decentral.problems.data.windows import deal_windows, windows_of

        text = load_text(self.text, self.data_root or None)
        windows = windows_of(text, self.context)
        return Made(self.model(text, seed), windows, deal_windows(windows, workers, self.partition, seed))

    def batches(self, made: Made, seed: int, batch_size: BatchSize) -> Draw:
        """See :class:`decentral.problems.capabilities.Layered`: windows anywhere in a worker's stretch of the text."""
        from decentral.problems.step_batches import of_stretches

        text = load_text(self.text, self.data_root or None)
        return of_stretches(text, self.context, len(made.shards), seed, batch_size)


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
