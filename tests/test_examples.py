"""The examples run as they say, in one process and on ranks."""

import csv

import pytest
from ranks import run_ranks

COMMAND = [
    "examples/own_method.py", "run", "experiments/quickstart.toml", "--set", 'sweep.algorithm.name=["dsgd", "sleepy"]',
    "--set", "train.rounds=50", "--set", "train.dtype=float64", "--set", "train.oracle=loop",
]  # fmt: skip


def results(out):
    with (out / "results.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if "wall" not in k and "mpi" not in k}
            for row in csv.DictReader(file)
        ]


def in_one_process(out):
    done = run_ranks(1, *COMMAND, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return results(out)


@pytest.mark.slow
def test_a_method_of_ones_own_is_a_class_and_a_line(tmp_path):
    dsgd, sleepy = in_one_process(tmp_path / "one")
    assert float(sleepy["bytes_sent_mean"]) == float(dsgd["bytes_sent_mean"]) / 2
    assert float(sleepy["consensus_sq"]) > float(dsgd["consensus_sq"])


@pytest.mark.mpi
def test_it_runs_on_ranks_unchanged(tmp_path):
    done = run_ranks(2, "-m", "mpi4py", *COMMAND, "--out", str(tmp_path / "two"), timeout=200)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "two") == in_one_process(tmp_path / "one")


def epochs(done):
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("epoch")]


def accuracy(line):
    return float(line.split("accuracy ")[1].split(",")[0])


@pytest.mark.slow
def test_a_script_of_ones_own_trains_alone(tmp_path):
    lines = epochs(run_ranks(1, "examples/train_on_ranks.py", str(tmp_path)))
    assert len(lines) == 10
    assert accuracy(lines[-1]) > 0.9
    assert lines[-1].endswith("0.00 MB sent by a worker")
    again = epochs(run_ranks(1, "examples/train_on_ranks.py", str(tmp_path)))
    assert again == []  # all epochs were kept


@pytest.mark.mpi
def test_a_script_of_ones_own_trains_on_ranks(tmp_path):
    lines = epochs(run_ranks(2, "examples/train_on_ranks.py", str(tmp_path), timeout=200))
    d, steps = 64 * 128 + 128 + 2 * 128 + 128 * 10 + 10, 10 * (700 // 20)
    assert len(lines) == 10
    assert accuracy(lines[-1]) > 0.9
    assert lines[-1].endswith(f"{4 * d * steps / 1e6:.2f} MB sent by a worker")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits-0-of-2.pt", "digits-1-of-2.pt"]
