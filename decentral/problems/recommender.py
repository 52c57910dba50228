"""A deep autoencoder that recommends: the settings of the problem."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from decentral.errors import UserError
from decentral.problems.capabilities import BatchSize, Draw, Made
from decentral.problems.data import RATINGS, load_ratings
from decentral.problems.data.rating_split import TimeSplit
from decentral.problems.objective import Place, check_positive
from decentral.problems.of_module import OfModule
from decentral.problems.sizes import check_layers
from decentral.tables import OneOf
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import nn

    from decentral.problems.data.rating_rows import RatingRows
    from decentral.problems.data.ratings import Ratings
    from decentral.problems.losses import Loss
    from decentral.problems.models.tried import Tried
    from decentral.problems.rating_objective import RatingObjective


@dataclass(frozen=True)
class Recommender(OfModule):
    """Users' ratings of all items from those that are known: MMSE, the squared error over a batch's ratings only.

    ``ratings``: see ``decentral list data``; those that are not embedded are read below ``data_root`` (or the
    environment variable DECENTRAL_DATA). ``test_share``, ``train_from``, ``test_from``, ``test_until``: see
    :class:`decentral.problems.data.rating_split.TimeSplit`; users and items without a training rating are left out.
    Samples are users, and workers own users: ``partition`` "iid", or "by-mean", worker 0 those who rate lowest.

    ``hidden``: widths of the encoder, the last of the code; the decoder mirrors them. ``activation``: behind every
    layer, the last one only with ``last_activation``. ``dropout``: of the code, the share of it that is dropped.
    ``tied``: decoder's weights are the encoder's, transposed. ``refeed``: each batch has a second round, on the dense
    outputs of the first (:class:`decentral.problems.rating_objective.RatingObjective`), so an epoch has twice as many.
    Reference: Kuchaiev and Ginsburg 2017 (arXiv 1708.01715).
    """

    ratings: Annotated[str, OneOf(RATINGS)] = "low-rank"
    data_root: str = ""
    test_share: float = 0.1
    train_from: str = ""
    test_from: str = ""
    test_until: str = ""
    partition: Literal["iid", "by-mean"] = "iid"
    hidden: tuple[int, ...] = (64, 32)
    activation: Literal["selu", "elu", "lrelu", "relu", "sigmoid", "tanh"] = "selu"
    last_activation: bool = True
    dropout: float = 0.0
    tied: bool = False
    refeed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_layers(layers=len(self.hidden))
        for width in self.hidden:
            check_positive(hidden=width)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {shown(self.dropout)} must be at least 0 and below 1")
        self._split()

    def _split(self) -> TimeSplit:
        return TimeSplit(self.test_share, self.train_from, self.test_from, self.test_until)

    @property
    def rounds_a_batch(self) -> int:
        """See :class:`decentral.problems.capabilities.Repeating`."""
        return 2 if self.refeed else 1

    def read(self) -> RatingRows:
        """The users' rows."""
        return _rows(load_ratings(self.ratings, self.data_root or None), self._split())

    def network(self, rows: RatingRows) -> nn.Module:
        """See :class:`OfModule`."""
        from decentral.problems.models.autoencoder import autoencoder

        return autoencoder(
            rows.classes, self.hidden, self.activation, self.last_activation, self.dropout, self.tied
        )

    def made(self, workers: int, seed: int) -> Made:
        """See :class:`decentral.problems.capabilities.Layered`."""
        from decentral.problems.data.rating_rows import deal_users

        rows = self.read()
        return Made(self.model(rows, seed), rows, deal_users(rows, workers, self.partition, seed))

    def batches(self, made: Made, seed: int, batch_size: BatchSize) -> Draw:
        """See :class:`decentral.problems.capabilities.Layered`. Raises UserError for ``refeed``."""
        from decentral.problems.step_batches import of_shards

        if self.refeed:
            raise UserError(
                "problem.refeed = true feeds the whole network's outputs in again, which a stage has not; set it to "
                "false, or remove [stages]"
            )
        return of_shards(made, seed, batch_size)

    def most_workers(self) -> int:
        """See :class:`decentral.problems.capabilities.Dealt`: users."""
        return len(self.read().train_y)

    def loss(self) -> Loss:
        """See :class:`OfModule`."""
        from decentral.problems.losses import masked_squares

        return masked_squares

    def columns(self, workers: int, weight_decay: float) -> tuple[str, ...]:
        """See :class:`decentral.problems.capabilities.Measured`."""
        from decentral.problems.rating_evaluation import FLOOR, OF_RATINGS

        del workers, weight_decay
        return OF_RATINGS + ((FLOOR,) if self.read().floor is not None else ())

    def tried(self, made: Made, place: Place) -> Tried:
        """See :class:`decentral.problems.capabilities.Tryable`: dropped units are drawn."""
        from decentral.problems.models.tried import TRUSTED, Tried

        del made, place
        if not self.dropout:
            return TRUSTED
        return Tried(frozenset({"torch"}), lambda: "the model draws random numbers (dropout)")

    def build(self, place: Place) -> RatingObjective:
        """The objective of the hosted workers."""
        from decentral.problems.rating_objective import RatingObjective

        made = self.made(place.workers, place.seed)
        return RatingObjective(*made, place, self.tried(made, place), self.refeed)


@functools.lru_cache(maxsize=4)
def _rows(ratings: Ratings, split: TimeSplit) -> RatingRows:
    from decentral.problems.data.rating_rows import rating_rows

    return rating_rows(ratings, split)
