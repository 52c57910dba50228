"""One job per results folder: a second is refused by name, and a lock that was left behind is taken over."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from command import decentral, metrics, write

from decentral.errors import UserError
from decentral.runs import lock

pytestmark = pytest.mark.usefixtures("home")


def left_behind(**owner):
    """A lock file of a job that is gone, in "out"."""
    Path("out").mkdir()
    told = {"host": platform.node(), "pid": 1, "began": "another boot 7", "since": "2020-01-01"} | owner
    Path("out", lock.LOCK).write_text(json.dumps(told))


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_second_job_is_refused_by_host_and_process_and_writes_nothing(more):
    file = write(Path("x.toml"))
    with lock.taken(Path("out")) as note:
        assert note == ""
        before = sorted(Path("out").iterdir())
        said = decentral("run", file, "--out", "out", *more)
        assert sorted(Path("out").iterdir()) == before
    assert said.code == 2
    (line,) = said.err.splitlines()
    assert f"process {os.getpid()} of '{platform.node()}'" in line
    assert not Path("out", lock.LOCK).exists()
    assert decentral("run", file, "--out", "out", *more).code == 0


def test_the_lock_of_a_process_that_was_killed_is_free_at_once():
    code = (
        "import os, signal, sys; from pathlib import Path; from decentral.runs import lock\n"
        "with lock.taken(Path('out')): os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    assert Path("out", lock.LOCK).exists()
    said = decentral("run", write(Path("x.toml")), "--out", "out")
    assert said.code == 0
    assert "took over" in said.err
    assert not Path("out", lock.LOCK).exists()


@pytest.mark.parametrize("owner", [{}, {"pid": os.getppid()}, {"pid": "none"}, {"pid": 2**40}])
def test_a_lock_of_a_process_that_is_gone_or_whose_number_is_another_now_is_taken_over(owner):
    left_behind(**owner)
    with lock.taken(Path("out")) as note:
        assert "which has ended" in note


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_lock_that_says_nothing_is_nobodys(text):
    left_behind()
    Path("out", lock.LOCK).write_text(text)
    with lock.taken(Path("out")) as note:
        assert note == ""


def test_where_there_is_no_flock_a_living_process_is_told_by_when_it_began(monkeypatch):
    monkeypatch.setattr(lock, "_lock", lambda *_: True)
    left_behind(pid=os.getppid(), began=lock._began(os.getppid()))
    with pytest.raises(UserError, match=f"process {os.getppid()}"):
        lock.refuse_if_taken(Path("out"))


@pytest.mark.parametrize("take", [lock.refuse_if_taken, lambda out: lock.taken(out).__enter__()])
def test_another_hosts_lock_is_refused_with_the_file_to_remove(take):
    left_behind(host="elsewhere")
    with pytest.raises(UserError, match=r"of 'elsewhere'.*if it runs no more, remove out/lock\.json"):
        take(Path("out"))
    Path("out", lock.LOCK).unlink()
    take(Path("out"))


@pytest.mark.parametrize(
    ("owner", "ended"),
    [
        (["c", "7", 0], True),
        (["c", "7", 1], False),
        (["c", "7", 2], False),
        (["c", "8", 0], False),
        ("7", False),
    ],
)
def test_a_lock_of_an_earlier_start_of_slurms_job_is_taken_over_wherever_that_was(monkeypatch, owner, ended):
    for key, value in {"CLUSTER_NAME": "c", "JOB_ID": "7", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    left_behind(host="elsewhere", slurm=owner)
    if not ended:
        with pytest.raises(UserError, match="of 'elsewhere'"):
            lock.refuse_if_taken(Path("out"))
        return
    with lock.taken(Path("out")) as note:
        assert "an earlier start of this job" in note
        assert json.loads(Path("out", lock.LOCK).read_text())["slurm"] == ["c", "7", 1]


def test_what_changed_while_the_lock_was_waited_for_is_seen(monkeypatch):
    """Another job has done the whole experiment between the check of the folder and the lock."""
    file, took = write(Path("x.toml")), lock.taken

    def late(folder):
        monkeypatch.setattr(lock, "taken", took)
        assert decentral("run", file, "--out", "out").code == 0
        return took(folder)

    monkeypatch.setattr(lock, "taken", late)
    said = decentral("run", file, "--out", "out")
    assert said.code == 2
    assert "add --resume" in said.err
    ((_, rows),) = metrics(Path("out")).items()
    assert [int(row["round"]) for row in rows] == list(range(7))
