"""Whatever ends a run, --resume ends in the bits of a run that nothing had ended."""

import json
import os
import shutil
import signal

import pytest
import ranks
import torch
from command import but_wall_time, decentral, metrics, read_csv, write

from decentral.runs.journal import Journal

pytestmark = pytest.mark.usefixtures("home")

CNN = {
    "problem": {"name": "cnn", "width": 4, "partition": "dirichlet"},
    "algorithm": {"name": "decentlam"},
    "schedule": {"name": "cosine", "warmup_rounds": 3},
    "network": {"latency_s": 1e-3, "compute": {"name": "lognormal", "median_s": 0.01, "sigma": 1.0}},
    "train": {"rounds": 14, "batch_size": 8, "dtype": "float32", "record_every": 2, "checkpoint_every": 3},
}
SWEEP = {
    "problem": {"noise": 0.1},
    "sweep": {"algorithm": {"name": ["pmsgd", "decentlam"]}},
    "seeds": [0, 1],
    "schedule": {"name": "step"},
    "train": {"rounds": 20, "record_every": 3, "checkpoint_every": 4, "lr": 0.05},
}

# dies by SIGKILL in the middle of a line of metrics.csv and of a file that is written beside its old form
KILLED = """
import os, signal
from decentral.cli import main
from decentral.runs.folder import PART, RunFolder
append, left = RunFolder.append, [int(os.environ["ROWS"])]
def cut(self, row):
    if left[0] == 0:
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "metrics.csv").open("a") as file:
            file.write(f"{row['round']},0.0000123,4")
        for name in ("checkpoint.pt", "metrics.csv", "status.json"):
            (self.path / (name + PART)).write_bytes(b"half a fi")
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    append(self, row)
RunFolder.append = cut
main()
"""


def killed(file, out, rows):
    """Run it in a process that is killed when it has recorded that many rows."""
    done = ranks.run_ranks(1, "-c", KILLED, "run", file, "--out", out, cwd=".", ROWS=str(rows))
    assert done.returncode == -signal.SIGKILL, done.stderr


class Died(BaseException):
    """Ends a run in this process as a kill would: nothing of ours is called, nothing more is written."""


@pytest.fixture
def dying(monkeypatch):
    """Lets the next runs die when they have recorded so many rows."""

    def after(rows, error=Died):
        from decentral.runs.folder import RunFolder

        append, left = RunFolder.append, [rows]

        def cut(self, row):
            if left[0] == 0:
                raise error
            left[0] -= 1
            append(self, row)

        patch = pytest.MonkeyPatch()
        patch.setattr(RunFolder, "append", cut)
        return patch

    return after


def die(dying, rows, *args):
    patch = dying(rows)
    with pytest.raises(Died):
        decentral("run", *args)
    patch.undo()


def same_results(one, other):
    """metrics.csv and results.csv of both folders are equal, as text, but for the machine's own clock."""
    assert metrics(one).keys() == metrics(other).keys()
    for name, rows in metrics(one).items():
        assert but_wall_time(rows) == but_wall_time(metrics(other)[name])
    assert but_wall_time(read_csv(one / "results.csv")) == but_wall_time(read_csv(other / "results.csv"))


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """A run with batch norm, and the same run killed: (file, folder of the whole, folder of the killed)."""
    home = tmp_path_factory.mktemp("cnn")
    file = write(home / "x.toml", **CNN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("decentral.runs.run._show", lambda folder: None)
        assert decentral("run", file, "--out", home / "whole").code == 0
    killed(file, home / "killed", rows=6)  # rounds 0, 2 .. 10; the last checkpoint is of round 9
    return file, home / "whole", home / "killed"


@pytest.mark.slow
def test_a_network_killed_in_mid_line_ends_in_the_same_bits(tmp_path, cnn):
    file, whole, cut = cnn
    shutil.copytree(cut, tmp_path / "out")
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert (run / "metrics.csv").read_text().endswith("\n12,0.0000123,4")
    assert torch.load(run / "checkpoint.pt")["t"] == 9
    assert not (tmp_path / "out" / "results.csv").exists()
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    same_results(whole, tmp_path / "out")
    assert not (run / "checkpoint.pt").exists()
    assert float(metrics(whole).popitem()[1][-1]["test_accuracy"]) > 0  # it is a network that was compared


@pytest.mark.mpi
def test_a_network_killed_in_one_process_ends_in_the_same_bits_on_two_ranks(tmp_path, cnn):
    file, whole, cut = cnn
    shutil.copytree(cut, tmp_path / "out")
    done = ranks.decentral("run", file, "--out", tmp_path / "out", "--resume", ranks=2, drawn=False)
    assert done.returncode == 0, done.stderr
    for name, rows in metrics(whole).items():
        others = metrics(tmp_path / "out")[name]
        ours = [{k: v for k, v in row.items() if k not in ("wall_s", "mpi_bytes_sent")} for row in rows]
        assert ours == [{k: v for k, v in row.items() if k in ours[0]} for row in others]
        assert int(others[-1]["mpi_bytes_sent"]) > 0


@pytest.mark.mpi
def test_other_ranks_go_on_with_the_gradient_oracle_that_the_run_began_with(tmp_path, dying):
    changes = {**CNN, "problem": {"name": "mlp", "hidden": [8]}, "topology": {"workers": 6}}
    changes["train"] = {**CNN["train"], "dtype": "float64"}
    file = write(tmp_path / "x.toml", **changes)
    assert decentral("run", file, "--out", "whole").code == 0
    die(dying, 6, file, "--out", "out")
    done = ranks.decentral("run", file, "--out", tmp_path / "out", "--resume", ranks=2, drawn=False)
    assert done.returncode == 0, done.stderr
    ((name, rows),) = metrics(tmp_path / "whole").items()
    environment = json.loads((tmp_path / "out" / "runs" / name / "environment.json").read_text())
    assert environment["ranks"] == 2
    assert (
        environment["oracle"] == "batched"
    )  # of themselves, with three workers each, they would choose the loop
    for row, other in zip(rows, metrics(tmp_path / "out")[name], strict=True):
        for key in row.keys() - {"wall_s", "mpi_bytes_sent"}:
            assert float(other[key]) == pytest.approx(float(row[key]), rel=1e-12), key


@pytest.mark.parametrize("rows", [1, 3, 9, 10, 20, 31])
def test_a_sweep_that_dies_anywhere_ends_in_the_same_bits(tmp_path, dying, rows):
    file = write(tmp_path / "x.toml", **SWEEP)
    assert decentral("run", file, "--out", "whole").code == 0
    die(dying, rows, file, "--out", "out")
    ended = rows // 8  # 8 records a run
    assert len(list((tmp_path / "out" / "runs").glob("*/status.json"))) == ended
    assert (tmp_path / "out" / "results.csv").exists() == bool(ended)
    if ended:
        assert len(read_csv(tmp_path / "out" / "results.csv")) == ended
    said = decentral("run", file, "--out", "out", "--resume")
    assert said.code == 0
    assert said.err.count("run ") == 4 - ended + bool(ended and "runs have" not in said.err)
    same_results(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize("algorithm", ["dsgd", "decentlam"])
def test_the_state_of_an_update_rule_goes_on_too(tmp_path, dying, algorithm):
    changes = {**CNN, "algorithm": {"name": algorithm}, "optimizer": {"name": "adamw"}}
    changes["train"] = {**CNN["train"], "weight_decay": 0.01, "clip_norm": 0.5}
    file = write(tmp_path / "x.toml", **changes)
    assert decentral("run", file, "--out", "whole").code == 0
    die(dying, 6, file, "--out", "out")
    (run,) = (tmp_path / "out" / "runs").iterdir()
    kept = torch.load(run / "checkpoint.pt")
    assert (kept["t"], kept["state_rest"][-1]) == (9, 9)  # AdamW's steps
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    same_results(tmp_path / "whole", tmp_path / "out")


@pytest.mark.mpi
def test_the_state_of_an_update_rule_goes_on_on_other_ranks(tmp_path, dying):
    file = write(tmp_path / "x.toml", **CNN, optimizer={"name": "adam"})
    assert decentral("run", file, "--out", "whole").code == 0
    die(dying, 6, file, "--out", "out")
    done = ranks.decentral("run", file, "--out", tmp_path / "out", "--resume", ranks=2)
    assert done.returncode == 0, done.stderr
    ((name, rows),) = metrics(tmp_path / "whole").items()
    for row, other in zip(rows, metrics(tmp_path / "out")[name], strict=True):
        assert {key: other[key] for key in row.keys() - {"wall_s", "mpi_bytes_sent"}} == {
            key: row[key] for key in row.keys() - {"wall_s", "mpi_bytes_sent"}
        }


def test_a_run_may_die_again_and_again(tmp_path, dying):
    file = write(tmp_path / "x.toml", **CNN)
    assert decentral("run", file, "--out", "whole").code == 0
    for rows in (3, 2, 2):  # rows since it went on
        die(dying, rows, file, "--out", "out", "--resume")
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    same_results(tmp_path / "whole", tmp_path / "out")


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path):
    file = write(tmp_path / "x.toml", **SWEEP)
    killed(file, tmp_path / "out", rows=0)
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert not (run / "checkpoint.pt").exists()
    assert (run / "metrics.csv").read_text() == "0,0.0000123,4"
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    assert decentral("run", file, "--out", "whole").code == 0
    same_results(tmp_path / "whole", tmp_path / "out")


def test_killed_before_anything_was_whole_it_starts_without_resume(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "experiment.toml.part").write_text("name")
    assert decentral("run", write(tmp_path / "x.toml"), "--out", "out").code == 0


def test_a_half_written_file_is_never_read(tmp_path):
    file = write(tmp_path / "x.toml", **SWEEP)
    assert decentral("run", file, "--out", "out").code == 0
    before = (tmp_path / "out" / "results.csv").read_text()
    run = sorted((tmp_path / "out" / "runs").iterdir())[0]
    for path in (run / "status.json.part", run / "checkpoint.pt.part", tmp_path / "out" / "results.csv.part"):
        path.write_bytes(b"{ half")
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    assert (tmp_path / "out" / "results.csv").read_text() == before


def test_resuming_what_has_ended_only_draws_it_again(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "x.toml", figure=[{"name": "first", "y": "bias_sq"}])
    assert decentral("run", file, "--out", "out").code == 0
    (run,) = (tmp_path / "out" / "runs").iterdir()
    before = {path: path.read_bytes() for path in run.iterdir()}
    results = (tmp_path / "out" / "results.csv").read_bytes()
    (tmp_path / "out" / "report.html").unlink()
    write(file, figure=[{"name": "second", "y": "consensus_sq"}])  # figures are no part of what was run
    monkeypatch.setattr(
        "decentral.runs.rounds.training.Training.run", lambda *_: pytest.fail("it trained again")
    )
    said = decentral("run", file, "--out", "out", "--resume")
    assert said.code == 0
    assert "1 of 1 runs have ended before" in said.err
    assert "figures in out/figures" in said.out
    assert (tmp_path / "out" / "figures" / "second.png").exists()
    assert (tmp_path / "out" / "report.html").exists()
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert (tmp_path / "out" / "results.csv").read_bytes() == results


def test_resume_where_nothing_is_begins(tmp_path):
    assert decentral("run", write(tmp_path / "x.toml"), "--out", "out", "--resume").code == 0


def test_resume_with_more_seeds_keeps_the_runs_that_are_there(tmp_path):
    file = write(tmp_path / "x.toml", **{**SWEEP, "seeds": [0]})
    assert decentral("run", file, "--out", "out").code == 0
    few = metrics(tmp_path / "out")
    file = write(tmp_path / "x.toml", **SWEEP)
    said = decentral("run", file, "--out", "out", "--resume")
    assert "2 of 4 runs have ended before" in said.err
    many = metrics(tmp_path / "out")
    assert len(many) == 4
    assert {name: many[name] for name in few} == few
    assert [row["seed"] for row in read_csv(tmp_path / "out" / "results.csv")] == ["0", "1", "0", "1"]


@pytest.mark.parametrize("record_every", [40, 400])
def test_a_divergence_after_resuming_is_told_as_it_would_have_been(tmp_path, monkeypatch, record_every):
    file = write(
        tmp_path / "x.toml",
        topology={"name": "exponential", "workers": 8},
        algorithm={"name": "decentlam", "allow_unstable": True},
        train={"rounds": 400, "record_every": record_every, "checkpoint_every": 9},
    )
    assert decentral("run", file, "--out", "whole").code == 3
    keep = Journal.keep

    def last(journal, state):
        keep(journal, state)
        if state["t"] == 45:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "keep", last)
        with pytest.raises(Died):
            decentral("run", file, "--out", "out")
    assert decentral("run", file, "--out", "out", "--resume").code == 3
    same_results(tmp_path / "whole", tmp_path / "out")


def test_other_threads_are_noted_for_the_last_bits_may_differ(tmp_path, dying):
    file = write(tmp_path / "x.toml", **SWEEP)
    die(dying, 5, file, "--out", "out")
    torch.set_num_threads(2)
    said = decentral("run", file, "--out", "out", "--resume")
    torch.set_num_threads(1)
    assert said.code == 0
    assert said.err.count("begun with 1 threads and resumed with 2: the last bits may differ") == 1


def test_a_broken_checkpoint_is_named_with_the_remedy(tmp_path, dying):
    file = write(tmp_path / "x.toml", **SWEEP)
    for content in (b"no checkpoint", b""):
        die(dying, 5, file, "--out", "out")
        (path,) = (tmp_path / "out" / "runs").glob("*/checkpoint.pt")
        path.write_bytes(content)
        said = decentral("run", file, "--out", "out", "--resume")
        assert said.code == 2
        assert "Traceback" not in said.err
        assert said.err.splitlines()[-1].startswith(
            f"decentral: {path.relative_to(tmp_path)} is no checkpoint"
        )
        path.unlink()
        assert decentral("run", file, "--out", "out", "--resume").code == 0
        shutil.rmtree(tmp_path / "out")


def test_interrupted_it_says_how_to_go_on_and_exits_130(tmp_path, dying):
    file = write(tmp_path / "x.toml", **SWEEP)
    patch = dying(5, error=KeyboardInterrupt)
    said = decentral("run", file, "--out", "out")
    patch.undo()
    assert said.code == 130
    assert "Traceback" not in said.err
    run, hint = said.err.splitlines()
    assert run.startswith("run 1 of 4: pmsgd seed 0: left at round ")
    assert hint.startswith("decentral: interrupted; the same command with --resume")
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    assert decentral("run", file, "--out", "whole").code == 0
    same_results(tmp_path / "whole", tmp_path / "out")


def test_interrupted_before_it_began_it_writes_nothing_and_exits_130(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt  # no signal: a shell's background job ignores it

    monkeypatch.setattr("decentral.runs.preparing.load", interrupted)
    said = decentral("run", write(tmp_path / "x.toml"), "--out", "out")
    assert said.code == 130
    assert said.err.strip() == "decentral: interrupted before anything was written"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_unforeseen_error_shows_its_traceback_once_and_exits_1(tmp_path):
    (tmp_path / "breaks.py").write_text(
        "import torch\n"
        "passes = iter(range(12))\n"  # after the model has been tried
        "class Breaks(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        if self.training and next(passes, None) is None:\n"
        "            raise RuntimeError('caught fire')\n"
        "        return super().forward(x.flatten(1))\n"
        "def make(shape, classes):\n"
        "    return Breaks(64, classes)\n"
    )
    problem = {"name": "module", "factory": "breaks:make"}
    done = ranks.decentral("run", write(tmp_path / "x.toml", problem=problem), "--out", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.count("RuntimeError: caught fire") == 1


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    from decentral.runs.folder import write_whole

    write_whole(tmp_path / "a" / "b.txt", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(Died))
    with pytest.raises(Died):
        write_whole(tmp_path / "a" / "b.txt", "new")
    assert (tmp_path / "a" / "b.txt").read_text() == "old"
