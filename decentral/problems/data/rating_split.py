"""Ratings split in time: a model learns from the earlier ones, and is asked for later ones of the same people."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np

from decentral.errors import UserError
from topologies.wording import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from decentral.problems.data.ratings import Ratings


@dataclass(frozen=True)
class TimeSplit:
    """Ratings before ``test_from`` are for training, those from then on for testing; days as "2005-12-31", UTC.

    ``test_from``: "" is the time from which on there is a share of ``test_share`` of the ratings, of one second all or
    none: at least that share. ``train_from``, ``test_until``: ratings before the one, and from the other on, are left
    out; "" leaves out none.
    """

    test_share: float = 0.1
    train_from: str = ""
    test_from: str = ""
    test_until: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share = {shown(self.test_share)} must be between 0 and 1")
        days = {key: getattr(self, key) for key in ("train_from", "test_from", "test_until")}
        given = [(key, day, _seconds(key, day)) for key, day in days.items() if day]
        for (before, early, first), (key, day, second) in itertools.pairwise(given):
            if first >= second:
                raise ValueError(f"{before} = {shown(early)} must be before {key} = {shown(day)}")

    def parts(self, ratings: Ratings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ratings for training, and for testing those of users and items that are in training too: positions.

        Raises UserError where one of the two is empty.
        """
        times = ratings.times
        first = _seconds("train_from", self.train_from) if self.train_from else -np.inf
        end = _seconds("test_until", self.test_until) if self.test_until else np.inf
        inside = np.flatnonzero((times >= first) & (times < end))
        if not len(inside):
            raise UserError(f"problem.ratings {shown(ratings.name)}: no rating is in the time that was given")
        if self.test_from:
            cut = _seconds("test_from", self.test_from)
        else:
            tested = int(np.ceil(self.test_share * len(inside)))
            cut = float(np.sort(times[inside])[len(inside) - tested])
        train, test = inside[times[inside] < cut], inside[times[inside] >= cut]
        known = np.isin(ratings.users[test], ratings.users[train])
        known &= np.isin(ratings.items[test], ratings.items[train])
        if not known.any():
            what = (
                "training" if not len(train) else "testing, of a user and an item that are in training too,"
            )
            raise UserError(
                f"problem.ratings {shown(ratings.name)}: no rating is left for {what} where testing begins "
                f"{_day(cut)}; set problem.test_from or problem.test_share otherwise"
            )
        return train, test[known]


def _seconds(key: str, day: str) -> float:
    try:
        midnight = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
    except (TypeError, ValueError):
        raise ValueError(
            f"{key} = {shown(day)} must be a day that there is, as 2005-12-31, or empty"
        ) from None
    return midnight.timestamp()


def _day(seconds: float) -> str:
    try:
        return f"at {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"at second {seconds:g}"
