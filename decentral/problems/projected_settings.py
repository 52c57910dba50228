"""LSTMs with projection, dense, in groups and factorised, as language models of a text: the settings."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from decentral.problems.language_settings import Language
from decentral.problems.sizes import check_layers
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import nn

    from decentral.problems.capabilities import Made
    from decentral.problems.data.text import Text
    from decentral.problems.models.tried import Tried
    from decentral.problems.objective import Place


@dataclass(frozen=True)
class ProjectedLanguage(Language):
    """``depth`` layers of ``cells`` cells each, projected to ``projection`` numbers, as many as the embedding has.

    ``text_file``: a text file below the data root, instead of ``text``. ``tokens``: "characters", or "words", of which
    there are ``vocabulary`` at the most, those that the training part has most often; the others are one word, the
    unknown. ``context`` counts tokens; losses are of a token, so perplexity is exp(test_loss). ``dropout``: of the
    embedding's outputs and of each layer's.
    """

    text_file: str = ""
    tokens: Literal["characters", "words"] = "characters"
    vocabulary: int = 10_000
    cells: int = 128
    projection: int = 64
    depth: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(depth=self.depth)
        if self.vocabulary < 2:
            raise ValueError(
                f"vocabulary = {shown(self.vocabulary)} must be at least 2: a word and the unknown one"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {shown(self.dropout)} must be from 0 to less than 1")
        if self.text_file and self.text != type(self).text:
            raise ValueError(
                f"text = {shown(self.text)} and text_file = {shown(self.text_file)}: give one of them"
            )

    @abstractmethod
    def layer(self) -> nn.Module:
        """One layer, from the projection's numbers to as many."""

    def read(self) -> Text:
        """The text, by characters or words."""
        from decentral.problems.data.words import by_words, file_below, of_file

        text = of_file(file_below(self.data_root, self.text_file)) if self.text_file else super().read()
        return text if self.tokens == "characters" else by_words(text, self.vocabulary)

    def network(self, text: Text) -> nn.Module:
        """See :class:`Language`."""
        from decentral.problems.models.projected_lstm import projected

        return projected(text.vocabulary, self.projection, self.depth, self.layer, self.dropout)

    def tried(self, made: Made, place: Place) -> Tried:
        """See :class:`decentral.problems.capabilities.Tryable`."""
        tried = super().tried(made, place)
        return replace(tried, draws=frozenset({"torch"})) if self.dropout else tried


@dataclass(frozen=True)
class LSTMP(ProjectedLanguage):
    """A dense LSTM with projection: the baseline of :class:`FLSTM` and :class:`GLSTM`."""

    def layer(self) -> nn.Module:
        """See :class:`ProjectedLanguage`."""
        from decentral.problems.models.projected_lstm import GroupLSTM

        return GroupLSTM(self.projection, self.cells, self.projection)


@dataclass(frozen=True)
class FLSTM(ProjectedLanguage):
    """An LSTM with projection whose gates' weights are products of two matrices, of rank ``rank``."""

    rank: int = 32

    def layer(self) -> nn.Module:
        """See :class:`ProjectedLanguage`."""
        from decentral.problems.models.projected_lstm import FactorisedLSTM

        return FactorisedLSTM(self.projection, self.cells, self.projection, self.rank)


@dataclass(frozen=True)
class GLSTM(ProjectedLanguage):
    """An LSTM with projection in ``groups`` groups, which meet in the projection alone."""

    groups: int = 2

    def layer(self) -> nn.Module:
        """See :class:`ProjectedLanguage`."""
        from decentral.problems.models.projected_lstm import GroupLSTM

        return GroupLSTM(self.projection, self.cells, self.projection, self.groups)
