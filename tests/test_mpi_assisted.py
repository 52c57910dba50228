"""Boss and Assistant on two ranks: by turns the same bits as in one process, and each at its own speed to the end."""

import csv

import pytest
from ranks import decentral

pytestmark = [pytest.mark.mpi, pytest.mark.alone]

FILE = """
name = "assisted"
seeds = [2]
[problem]
name = "cnn"
data = "digits"
width = 4
[train]
lr = 0.1
rounds = 30
record_every = 10
eval_samples = 100
[optimizer]
name = "sgd"
momentum = 0.9
[assistant]
lr = 1.0
[[sweep.case]]
assistant = { synchronous = true }
[[sweep.case]]
assistant = { synchronous = false }
[[sweep.case]]
train = { lr = 1e25 }
"""
CLOCKS = ("wall_s", "simulated_s", "mpi_bytes_sent")


def rows_of(folder, part):
    (path,) = folder.glob(f"runs/*{part}*/metrics.csv")
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)], path


def test_two_ranks(tmp_path):
    (tmp_path / "x.toml").write_text(FILE)
    for ranks in (1, 2):
        said = decentral("run", tmp_path / "x.toml", "--out", tmp_path / str(ranks), ranks=ranks, drawn=False)
        assert said.returncode == 3, said.stderr  # one of three diverges, and both programs end
        assert said.stderr.count("its loss is") >= 1
    one, two = (rows_of(tmp_path / ranks, "synchronous-True")[0] for ranks in "12")
    assert one == two
    assert len(one) == 4
    rows, path = rows_of(tmp_path / "2", "synchronous-False")
    assert [int(row["samples"]) for row in rows] == [0, 320, 640, 960]
    assert all(int(row["scanned"]) >= int(row["samples"]) for row in rows)
    assert float(rows[-1]["staleness_max"]) <= 20
    with path.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["mpi_bytes_sent"] == last["bytes_sent_max"].removesuffix(".0") == str(30 * 32 * 9)
