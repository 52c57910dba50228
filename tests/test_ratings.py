"""Ratings: the drawn set and its floor, files of MovieLens, splits in time, rows of users, and all that is refused."""

import itertools
import re
from datetime import UTC, datetime

import numpy as np
import pytest
import tomli_w
import torch
from command import decentral

from decentral.errors import UserError
from decentral.problems import PROBLEMS
from decentral.problems.data import load_ratings
from decentral.problems.data.rating_rows import deal_users, rating_rows
from decentral.problems.data.rating_split import TimeSplit
from decentral.problems.data.ratings import Ratings

GOOD = "userId,movieId,rating,timestamp\n1,10,4.0,100\n1,20,3.5,200\n2,10,0,150\n2,20,5,300\n"


def ratings_of(rows, **more):
    """(user, item, value, time) each."""
    users, items, values, times = (np.array(column) for column in zip(*rows, strict=True))
    return Ratings("by hand", users, items, values.astype(float), times.astype(float), "", **more)


def written(folder, text, name="ratings.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def listed(ratings):
    columns = ratings.users, ratings.items, ratings.values, ratings.times
    return list(zip(*(column.tolist() for column in columns), strict=True))


# ------------------------------------------------------------------------------------------------- the drawn set


def test_the_drawn_ratings_are_of_low_rank_but_for_noise_whose_size_is_the_floor():
    ratings = load_ratings()
    noise = ratings.values - ratings.expected
    assert noise.std() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(2 * len(noise)))
    assert abs(noise.mean()) < 5 * 0.5 / np.sqrt(len(noise))
    assert len(set(zip(ratings.users.tolist(), ratings.items.tolist(), strict=True))) == len(noise)
    # 3 + a_u + b_i + p_u . q_i has rank 2 + 3, and 300 users are enough to tell
    matrix = np.full((1000, 150), np.nan)
    matrix[ratings.users, ratings.items] = ratings.expected
    assert _misfit(matrix[:300], rank=5) < 1e-3 < 0.02 < _misfit(matrix[:300], rank=4)
    rows = PROBLEMS["recommender"]().read()
    test = TimeSplit().parts(ratings)[1]
    assert rows.floor == pytest.approx(np.sqrt(np.mean(noise[test] ** 2)), rel=1e-12)
    assert rows.floor == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(2 * len(test)))


def _misfit(matrix, rank):
    """Root mean square of what the best matrix of that rank, found by turns, leaves of the known entries."""
    known, filled = ~np.isnan(matrix), np.nan_to_num(matrix)
    left = np.linalg.svd(filled - 3 * known)[0][:, :rank]
    right = np.zeros((matrix.shape[1], rank))
    for _ in range(12):
        for one, other, k, v in ((right, left, known.T, filled.T), (left, right, known, filled)):
            for row in range(len(one)):
                some = k[row]
                one[row] = np.linalg.lstsq(other[some], v[row, some], rcond=None)[0]
    return np.sqrt(np.mean((left @ right.T - filled)[known] ** 2))


# -------------------------------------------------------------------------------------------------------- files


def test_a_csv_file_is_read_by_its_header_whatever_the_order_of_its_columns(tmp_path):
    text = "\ufeffrating,userId,comment,timestamp,movieId\r\n4.0,1,a,100,10\r\n\r\n0,2,b,150.5,10\r\n"
    ratings = load_ratings("movielens", written(tmp_path, text))
    assert listed(ratings) == [(1, 10, 4.0, 100.0), (2, 10, 0.0, 150.5)]
    assert ratings.expected is None


def test_u_data_is_read_between_tabs_from_its_usual_folder(tmp_path):
    written(tmp_path / "ml-100k", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n", "u.data")
    assert listed(load_ratings("movielens-100k", str(tmp_path))) == [
        (196, 242, 3.0, 881250949.0), (186, 302, 3.0, 891717742.0),
    ]  # fmt: skip


BAD = {
    "a missing column": ("userId,movieId,rating\n1,2,3\n", "line 1 is 'userId,movieId,rating' and has no column time"),
    "no header": ("1,2,3,4\n", "line 1 is '1,2,3,4' and has no column userId and no movieId"),
    "an empty file": ("", "line 1 is '' and has no column userId"),
    "a header alone": ("userId,movieId,rating,timestamp\n", "it holds no rating"),
    "too few columns": (GOOD + "3,10,4\n", "line 6 is '3,10,4': expected 4 columns between commas, found 3"),
    "a word": (GOOD + "\n3,10,good,400\n", "line 7 is '3,10,good,400': rating 'good' is no finite number"),
    "nan": (GOOD + "3,10,nan,400\n", "line 6 is '3,10,nan,400': rating 'nan' is no finite number"),
    "infinity": (GOOD + "3,10,1e999,400\n", "line 6 is '3,10,1e999,400': rating '1e999' is no finite number"),
    "no rating": (GOOD + "3,10,,400\n", "line 6 is '3,10,,400': rating '' is no finite number"),
    "half a user": (GOOD + "3.5,10,4,400\n", "line 6 is '3.5,10,4,400': userId '3.5' is no whole number"),
    "twice": (GOOD + "2,10,1,400\n", "line 6 is '2,10,1,400': user 2 has rated item 10 in line 4 already; keep one"),
    "other bytes": (GOOD.encode() + b"3,\xff,1,400\n", "line 6 is "),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_refused_with_its_name_and_line(tmp_path, case):
    text, said = BAD[case]
    root = written(tmp_path, text)
    with pytest.raises(UserError) as found:
        load_ratings("movielens", root)
    assert f"{tmp_path / 'ratings.csv'}: {said}" in str(found.value)


def table(**problem):
    return {
        "name": "ratings",
        "problem": {"name": "recommender", "hidden": [4]} | problem,
        "topology": {"name": "ring", "workers": 2},
        "algorithm": {"name": "dsgd"},
        "train": {"lr": 0.1, "rounds": 2, "batch_size": 2},
    }


def refused(folder, **changed):
    (folder / "x.toml").write_text(tomli_w.dumps(changed))
    said = decentral("run", folder / "x.toml", "--out", folder / "out")
    assert said.code == 2
    assert not (folder / "out").exists()
    (line,) = re.sub(r"\n(?!$)", " ", said.err).strip().splitlines()
    assert len(line) < 300
    return line


REFUSED = {
    "a duplicate": ({"ratings": "movielens"}, "line 6 is '2,10,1,400': user 2 has rated item 10 in line 4 already"),
    "no file": ({"ratings": "movielens-100k"}, "no file u.data"),
    "a day that is not": ({"test_from": "2005-11-31"}, "test_from = '2005-11-31' must be a day that there is"),
    "days in a wrong order": (
        {"train_from": "2005-12-01", "test_from": "2005-09-01"},
        "train_from = '2005-12-01' must be before test_from = '2005-09-01'",
    ),
    "nothing in time": ({"train_from": "2035-01-01"}, "no rating is in the time that was given"),
    "nothing to learn": ({"test_from": "1970-01-01"}, "no rating is left for training where testing begins at 1970-"),
    "a share": ({"test_share": 1.0}, "test_share = 1.0 must be between 0 and 1"),
    "no layers": ({"hidden": []}, "layers = 0 must be from 1"),
    "a width": ({"hidden": [8, 0]}, "hidden = 0 must be positive"),
    "all dropped": ({"dropout": 1.0}, "dropout = 1.0 must be at least 0 and below 1"),
    "an activation": ({"activation": "gelu"}, "problem.activation = 'gelu' should be 'selu'"),
    "a name": ({"ratings": "netflix"}, "problem.ratings = 'netflix' should be 'low-rank'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(tmp_path, case):
    problem, said = REFUSED[case]
    root = written(tmp_path / "data", GOOD + "2,10,1,400\n")
    assert said in refused(tmp_path, **table(data_root=root, **problem))


def test_more_workers_than_users_are_refused(tmp_path):
    root = written(tmp_path / "data", GOOD)
    changed = table(data_root=root, ratings="movielens", test_share=0.25)
    changed["topology"]["workers"] = 3
    assert "3 workers" in refused(tmp_path, **changed)


# -------------------------------------------------------------------------------------------------- splits and rows


def seconds(day):
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def test_a_split_by_days_keeps_whom_and_what_training_has():
    rows = [
        (7, 1, 1.0, seconds("2005-08-31") + 86_399),  # before train_from
        (7, 1, 2.0, seconds("2005-09-01")), (8, 2, 3.0, seconds("2005-11-30") + 86_399),
        (7, 2, 4.0, seconds("2005-12-01")), (7, 3, 5.0, seconds("2005-12-05")),  # item 3 is not in training
        (9, 1, 1.5, seconds("2005-12-06")),  # user 9 is not
        (8, 1, 2.5, seconds("2005-12-31")), (8, 1, 3.5, seconds("2006-01-01")),  # at test_until
    ]  # fmt: skip
    split = TimeSplit(train_from="2005-09-01", test_from="2005-12-01", test_until="2006-01-01")
    train, test = split.parts(ratings_of(rows))
    assert (train.tolist(), test.tolist()) == ([1, 2], [3, 6])


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_a_split_by_share_is_at_a_time_so_ratings_of_one_second_stay_together(share):
    draw = np.random.default_rng(4)
    pairs = draw.permutation([(u, i) for u in range(8) for i in range(6)])[:40]
    rows = [(u, i, 1.0, t) for (u, i), t in zip(pairs, draw.integers(9, size=40), strict=True)]
    times = [row[3] for row in rows]
    cut = max(t for t in times if sum(other >= t for other in times) >= share * 40)
    before = [k for k in range(40) if times[k] < cut]
    users, items = ({rows[k][j] for k in before} for j in (0, 1))
    after = [k for k in range(40) if times[k] >= cut and rows[k][0] in users and rows[k][1] in items]
    train, test = TimeSplit(test_share=share).parts(ratings_of(rows))
    assert (train.tolist(), test.tolist()) == (before, after)


def test_a_rating_of_zero_is_a_rating_and_what_is_not_rated_is_none():
    rows = [(5, 70, 0.0, 0), (5, 80, 2.0, 1), (3, 80, 4.0, 2), (3, 70, 0.0, 9), (5, 90, 1.0, 9)]
    found = rating_rows(ratings_of(rows), TimeSplit(test_share=0.2))
    nan = float("nan")
    for given, wanted in (
        (found.train_y, [[nan, 4.0], [0.0, 2.0]]), (found.train_x, [[0.0, 4.0], [0.0, 2.0]]),  # users 3 and 5
        (found.test_y, [[0.0, nan]]), (found.test_x, [[0.0, 4.0]]),  # of user 3, item 70
    ):  # fmt: skip
        torch.testing.assert_close(given, torch.tensor(wanted), equal_nan=True, rtol=0, atol=0)
    assert (found.classes, found.floor) == (2, None)


@pytest.mark.parametrize("kind", ["iid", "by-mean"])
def test_every_user_has_one_owner(kind):
    rows = PROBLEMS["recommender"]().read()
    parts = deal_users(rows, 7, kind, seed=3)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    means = [rows.train_y[part].nanmean(1) for part in parts]
    ordered = all(a.max() <= b.min() for a, b in itertools.pairwise(means))
    assert ordered is (kind == "by-mean")
