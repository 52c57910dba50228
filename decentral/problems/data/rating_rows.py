"""Ratings as a data set whose samples are users: a row of all items each, and which user belongs to which worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.errors import UserError, nearest
from decentral.problems.data.dataset import Dataset
from decentral.problems.data.partitions import partition
from decentral.problems.data.rating_split import TimeSplit
from decentral.problems.data.ratings import Ratings
from decentral.problems.sizes import refuse_size
from topologies.streams import stream
from topologies.wording import shown

Codes = NDArray[np.int64]
Shards = list[Codes]


@dataclass(frozen=True, eq=False)
class RatingRows(Dataset):
    """``train_y``: (users, items), the training ratings, and NaN where there is none: so a rating of 0 is a rating.

    ``train_x``: the same with 0 for NaN. ``test_y``: the test ratings of the users who have some, ``test_x`` what is
    known of them, their training ratings. All float32; users and items ascend by their ids. ``classes``: items.
    ``floor``: the root mean square error of who knows all but the noise, on the test ratings; None where nobody does.
    """

    floor: float | None = None


def rating_rows(ratings: Ratings, split: TimeSplit) -> RatingRows:
    """The rows of all users and items that have a rating in the training part of ``split``.

    They are dense: 4 bytes for each user and item, twice. Raises UserError where these are more than there is room
    for, and where a part is empty.
    """
    train, test = split.parts(ratings)
    users, of_user = np.unique(ratings.users[train], return_inverse=True)
    items, of_item = np.unique(ratings.items[train], return_inverse=True)
    tested = np.unique(ratings.users[test], return_inverse=True)
    refuse_size(
        8.0 * (len(users) + len(tested[0])) * len(items),
        f"[problem] rows of {len(users):,} users and {len(items):,} items",
        "leave out some by problem.train_from, for example",
    )
    known = _matrix(len(users), len(items), of_user, of_item, ratings.values[train])
    asked = _matrix(
        len(tested[0]),
        len(items),
        tested[1],
        np.searchsorted(items, ratings.items[test]),
        ratings.values[test],
    )
    inputs = known.nan_to_num(nan=0.0)
    seen = inputs[torch.from_numpy(np.searchsorted(users, tested[0]))]
    note = f"{ratings.note}; {len(train):,} for training, {len(test):,} of known users and items for testing"
    floor = None
    if ratings.expected is not None:
        floor = float(np.sqrt(np.mean((ratings.values[test] - ratings.expected[test]) ** 2)))
    return RatingRows(inputs, known, seen, asked, len(items), ratings.name, note, floor=floor)


def _matrix(rows: int, columns: int, of_row: Codes, of_column: Codes, values: NDArray[np.float64]) -> Tensor:
    matrix = torch.full((rows, columns), float("nan"))
    places = torch.from_numpy(of_row), torch.from_numpy(of_column)
    matrix[places] = torch.from_numpy(values.astype(np.float32))
    return matrix


def deal_users(rows: RatingRows, workers: int, kind: str, seed: int) -> Shards:
    """Sorted training users (int64) of each of the n workers; together all, numbers differing by one at most.

    ``kind``: "iid" deals a random permutation, drawn from the stream (seed, "partition"); "by-mean" gives worker 0 the
    users whose mean rating is lowest, and so on. Raises UserError for an unknown kind, and for more workers than users.
    """
    count = len(rows.train_y)
    if kind not in USER_PARTITIONS:
        raise UserError(f"unknown partition {shown(kind)}; {nearest(kind, USER_PARTITIONS)}")
    if not 1 <= workers <= count:
        raise UserError(
            f"{shown(rows.name)} has {count} users in its training part, too few for {workers} workers; use fewer"
        )
    return USER_PARTITIONS[kind](rows, workers, seed)


def _iid(rows: RatingRows, workers: int, seed: int) -> Shards:
    return partition(np.zeros(len(rows.train_y), np.int64), workers, "iid", stream(seed, "partition"))


def _by_mean(rows: RatingRows, workers: int, seed: int) -> Shards:
    del seed
    means = rows.train_y.double().nanmean(1).numpy()
    return [np.sort(part) for part in np.array_split(np.argsort(means, kind="stable"), workers)]


USER_PARTITIONS: dict[str, Callable[[RatingRows, int, int], Shards]] = {"iid": _iid, "by-mean": _by_mean}
