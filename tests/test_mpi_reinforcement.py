"""Reinforcement learning on ranks, some of which only act: same bits as in one process, resumed or not."""

import json

import pytest
import torch
from command import decentral, write
from cut_short import run_all
from ranks import run_ranks
from test_mpi_parity import compare, metrics

pytestmark = pytest.mark.mpi

SMALL = {
    "name": "rl", "width": 6, "warmup": 8, "replay": 60, "episodes": 2, "episode_steps": 12, "actors": 2, "envs": 2,
    "pull_every": 3,
}  # fmt: skip
WIDE = {
    "env": "point-mass", "connection": "densenet", "representation": "ofenet", "representation_units": 6,
    "representation_layers": 2,
}  # fmt: skip
EXPERIMENTS = {
    "rl": {
        "problem": SMALL,
        "topology": {"name": "ring", "workers": 4},
        "algorithm": {"name": "decentlam"},
        "optimizer": {"name": "adam"},
        "train": {
            "lr": 0.003, "rounds": 12, "batch_size": 6, "dtype": "float32", "record_every": 4, "checkpoint_every": 4,
        },
        "sweep": {
            "case": [
                {"algorithm": {"name": "pmsgd"}},
                {
                    "algorithm": {"name": "dmsgd"}, "optimizer": {"name": "sgd"},
                    "problem": {**WIDE, "learner": "td3", "prioritised": True},
                },
                {"problem": {**WIDE, "actor_ranks": 1}, "train": {"checkpoint_every": "never"}},
            ]
        },
    }
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of their runs: see cut_short."""
    return run_all(tmp_path_factory.mktemp("rl"), EXPERIMENTS)


@pytest.mark.parametrize("ranks", ["2", "4", "cut"])
def test_ranks_and_runs_that_were_cut_short_have_the_bits_and_bytes_of_one_process(done, ranks):
    alone, other = metrics(done / "1" / "rl"), metrics(done / ranks / "rl")
    assert len(alone) == 3
    compare(alone, other, tolerance=0)
    for rows in other.values():
        assert [int(row["environment_steps"]) for row in rows] == [4 * 4 * (8 + t) for t in (0, 4, 8, 12)]
        assert len({row["return"] for row in rows}) == 4
    (of_gossip,) = (rows for name, rows in other.items() if "td3" in name)
    assert float(of_gossip[-1]["consensus_sq"]) > 0


def test_what_goes_to_actors_and_comes_from_them_is_counted(done):
    (rows,) = (rows for name, rows in metrics(done / "2" / "rl").items() if "actor-ranks" in name)
    blocks = (4 + 1) * 3 + (7 + 1) * 3 + 2 * 4 * 3  # with batch norm's four numbers a unit
    policy = 4 * (blocks + (10 + 1) * 6 + (16 + 1) * 6 + (22 + 1) * 4)  # float32
    environments, transitions = 16 * 8 * (4 + 4 + 2), 16 * 4 * (4 + 2 + 1 + 4 + 1)  # 16 in all
    pulls = 4 * (2 + 4)  # of 4 workers: two at the beginning, then in rounds 0, 3, 6 and 9
    expected = pulls * policy + environments + 12 * (environments + transitions)
    assert int(rows[-1]["mpi_bytes_sent"]) == expected  # one rank of workers: there is no other traffic
    assert float(rows[-1]["bytes_sent_mean"]) > 0
    (path,) = (done / "2" / "rl" / "runs").glob("*actor-ranks*/trace.json")
    spans = [
        (event["tid"], event["cat"])
        for event in json.loads(path.read_text())["traceEvents"]
        if event["ph"] == "X"
    ]
    assert {kind for rank, kind in spans if rank == 1} == {"act"}
    assert {kind for rank, kind in spans if rank == 0} == {"compute", "update", "wait"}


STOPPED = """
import os, signal
from decentral.cli import main
from decentral.runs.journal import Journal
moved = Journal.moved
def sent(journal, done):
    moved(journal, done)
    if done == 5 and journal.folder is not None:
        os.kill(os.getpid(), signal.SIGUSR1)
Journal.moved = sent
main()
"""


def test_a_signal_ends_actors_too_and_one_process_goes_on_from_their_checkpoint(done, home):
    table = {**EXPERIMENTS["rl"], "problem": {**SMALL, **WIDE, "actor_ranks": 2}}
    table = {key: value for key, value in table.items() if key != "sweep"}
    file = write(home / "x.toml", **table)
    said = run_ranks(3, "-c", STOPPED, "run", file, "--out", "out", cwd=home)
    assert said.returncode == 138, said.stderr
    assert "the same command with --resume goes on" in said.stderr
    (folder,) = (home / "out" / "runs").iterdir()
    assert 5 <= torch.load(folder / "checkpoint.pt")["t"] < 12
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    (expected,) = (rows for name, rows in metrics(done / "1" / "rl").items() if "actor-ranks" in name)
    (found,) = metrics(home / "out").values()
    compare({"": expected}, {"": found}, tolerance=0)
