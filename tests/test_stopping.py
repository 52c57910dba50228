"""Signals end a command with a line, a code of its own, and where there are checkpoints with one of the round."""

import os
import signal
from pathlib import Path

import pytest
import torch
from command import but_wall_time, decentral, experiment, metrics, read_csv, write

from decentral.runs import stopping
from decentral.runs.folder import RunFolder
from decentral.runs.journal import Journal

pytestmark = pytest.mark.usefixtures("home")
SIGNALS = [
    (signal.SIGINT, "interrupted"),
    (signal.SIGTERM, "ended by SIGTERM"),
    (signal.SIGUSR1, "ended by SIGUSR1"),
]
LONG = {"train": {"rounds": 40, "record_every": 4}, "network": {"latency_s": 1e-3}, "problem": {"noise": 0.1}}


@pytest.fixture(autouse=True)
def heard():
    """SIGINT as a terminal's job has it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def at_round(monkeypatch, t, number):
    """The signal comes while round t is made."""
    moved = Journal.moved

    def sent(journal, done):
        moved(journal, done)
        if done == t:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Journal, "moved", sent)


@pytest.mark.parametrize(("number", "words"), SIGNALS)
@pytest.mark.parametrize("t", [5, 8, 22])
def test_rounds_leave_a_checkpoint_of_the_round_and_resume_to_the_same(number, words, t):
    file = write(Path("x.toml"), **LONG)
    assert decentral("run", file, "--out", "whole").code == 0
    with pytest.MonkeyPatch.context() as patch:
        at_round(patch, t, number)
        said = decentral("run", file, "--out", "out")
    assert said.code == 128 + number
    assert said.err.splitlines()[-1].startswith(
        f"decentral: {words}; the same command with --resume goes on from here"
    )
    (run,) = Path("out", "runs").iterdir()
    assert torch.load(run / "checkpoint.pt")["t"] == t + 1  # the round that was under way when it came
    assert not Path("out", "lock.json").exists()
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    (whole,) = Path("whole", "runs").iterdir()
    assert but_wall_time(read_csv(run / "metrics.csv")) == but_wall_time(read_csv(whole / "metrics.csv"))
    assert (run / "trace.json").read_bytes() == (whole / "trace.json").read_bytes()


def test_kinds_without_checkpoints_say_that_they_begin_anew(monkeypatch):
    table = {
        "name": "x", "problem": {"name": "mlp", "hidden": [4, 4]}, "program": {"name": "backprop"},
        "stages": {"count": 2}, "train": {"lr": 0.1, "rounds": 6, "record_every": 2, "batch_size": 4},
    }  # fmt: skip
    import tomli_w

    Path("x.toml").write_text(tomli_w.dumps(table))
    at_round(monkeypatch, 3, signal.SIGTERM)
    said = decentral("run", "x.toml", "--out", "out")
    assert said.code == 143
    assert "Traceback" not in said.err
    assert "--resume begins a run of this kind that was under way anew" in said.err.splitlines()[-1]


@pytest.mark.parametrize("where", ["decentral.runs.preparing.load", "decentral.runs.preparing._check_rank"])
def test_before_anything_is_written_it_says_so(monkeypatch, where):
    monkeypatch.setattr(where, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    said = decentral("run", write(Path("x.toml")), "--out", "out")
    assert said.code == 143
    assert said.err.strip() == "decentral: ended by SIGTERM before anything was written"
    assert not Path("out").exists()


def test_while_figures_are_drawn_resuming_draws_them(monkeypatch):
    file = write(Path("x.toml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("decentral.runs.run._show", lambda _: os.kill(os.getpid(), signal.SIGUSR1))
        said = decentral("run", file, "--out", "out")
    assert said.code == 138
    assert "--resume" in said.err.splitlines()[-1]
    assert decentral("run", file, "--out", "out", "--resume").code == 0


def test_a_round_that_takes_too_long_is_not_waited_for(monkeypatch):
    monkeypatch.setitem(stopping.PATIENCE_S, signal.SIGTERM, 0.05)
    append, rows = RunFolder.append, []

    def stuck(folder, row):
        append(folder, row)
        rows.append(row)
        if len(rows) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()  # until the alarm

    monkeypatch.setattr(RunFolder, "append", stuck)
    said = decentral("run", write(Path("x.toml"), **LONG), "--out", "out")
    assert said.code == 143
    assert len(rows) == 3


def test_a_second_signal_ends_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(os, "write", lambda *_: 0)
    with stopping.listening(), stopping.put_off():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # timeout(1) sends it twice
        assert (stopping.asked(), ended) == (signal.SIGTERM, [])
        monkeypatch.setattr(stopping, "_TWICE_S", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [143]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stopping.listening():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_runs_of_a_sweep_that_had_ended_are_kept(monkeypatch):
    table = experiment(**LONG, seeds=[0, 1, 2])
    at_round(monkeypatch, 40, signal.SIGTERM)  # the last one of the first run
    file = write(
        Path("x.toml"), **{k: v for k, v in table.items() if k in ("train", "network", "problem", "seeds")}
    )
    assert decentral("run", file, "--out", "out").code == 143
    assert len(list(Path("out").rglob("status.json"))) == 1
    assert len(metrics(Path("out"))) == 1
