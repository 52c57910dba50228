"""Files that are read again are as they were written, or one line names the file: never other results in silence."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from command import but_wall_time, decentral, read_csv, write

from decentral.report.reading import read_experiment
from decentral.runs import sealed
from decentral.runs.folder import RunFolder

TRAIN = {"rounds": 12, "record_every": 2, "checkpoint_every": 5}
SWEEP = {"train": TRAIN, "network": {"latency_s": 1e-3}, "sweep": {"train": {"lr": [0.05, 0.1]}}}


class Died(BaseException):
    """As a kill."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders "whole" and "cut" of one experiment, x.toml: all its runs, and its first run up to round 6."""
    home = tmp_path_factory.mktemp("made")
    file = write(home / "x.toml", **SWEEP)
    append, left = RunFolder.append, [4]

    def cut(folder, row):
        if left[0] == 0:
            raise Died
        left[0] -= 1
        append(folder, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("decentral.runs.run._show", lambda _: None)
        assert decentral("run", file, "--out", home / "whole").code == 0
        patch.setattr(RunFolder, "append", cut)
        with pytest.raises(Died):
            decentral("run", file, "--out", home / "cut")
    return home


@pytest.fixture
def copies(made, tmp_path, monkeypatch):
    """Copies of them, to stand in; runs end without figures."""
    shutil.copytree(made, tmp_path / "in")
    monkeypatch.chdir(tmp_path / "in")
    monkeypatch.setattr("decentral.runs.run._show", lambda _: None)
    return Path()


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def in_place(path):
    path.unlink()
    path.mkdir()


def of_other_keys(path):
    torch.save({**torch.load(path), "x": "models"}, path)


HARMS = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped first": lambda path: flipped(path, 0.0),
    "flipped middle": lambda path: flipped(path, 0.5),
    "flipped last": lambda path: flipped(path, 1.0),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()[2:]),
    "a list": lambda path: path.write_text("[]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a folder": in_place,
}


def refused(said, path):
    """One line that names the file, exit code 2."""
    assert said.code == 2, said
    assert "Traceback" not in said.err
    (line,) = [text for text in said.err.splitlines() if text.startswith("decentral: ")]
    assert path.name in line
    assert len(line) < 300


@pytest.mark.parametrize("harm", [*HARMS, "other keys"])
@pytest.mark.parametrize("name", ["checkpoint.pt", "metrics.csv"])
def test_a_run_goes_on_from_nothing_that_is_damaged(copies, name, harm):
    (path,) = copies.glob(f"cut/runs/*/{name}")
    size = torch.load(path.with_name("checkpoint.pt"))["records"][0]
    os.truncate(path.with_name("metrics.csv"), size)  # what comes after is made again whatever it is
    if harm == "other keys" and name == "metrics.csv":
        path.unlink()
    else:
        (HARMS | {"other keys": of_other_keys})[harm](path)
    before = {p: p.read_bytes() for p in copies.rglob("*") if p.is_file()}
    refused(decentral("run", "x.toml", "--out", "cut", "--resume"), path)
    assert {p: p.read_bytes() for p in copies.rglob("*") if p.is_file()} == before
    shutil.rmtree(path.parent)  # the remedy at its largest
    assert decentral("run", "x.toml", "--out", "cut", "--resume").code == 0
    for whole in copies.glob("whole/runs/*/metrics.csv"):
        again = copies / "cut" / whole.relative_to("whole")
        assert but_wall_time(read_csv(again)) == but_wall_time(read_csv(whole))


def test_a_checkpoint_of_another_run_is_refused(copies):
    (path,) = copies.glob("cut/runs/*/checkpoint.pt")
    state = sealed.load(path)
    with Path("other.pt").open("wb") as file:  # the state is mapped from the first one
        sealed.save({**state, "run": "lr-0.1_seed-0_other"}, file)
    Path("other.pt").replace(path)
    said = decentral("run", "x.toml", "--out", "cut", "--resume")
    refused(said, path)
    assert "of another run" in said.err


def test_what_was_recorded_after_the_checkpoint_is_cut_off_without_reading_it(copies):
    (path,) = copies.glob("cut/runs/*/metrics.csv")
    with path.open("ab") as file:
        file.write(b"7,\xff half a line")
    assert decentral("run", "x.toml", "--out", "cut", "--resume").code == 0


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(
    "name", ["status.json", "metrics.csv", "config.toml", "environment.json", "trace.json"]
)
def test_of_a_run_that_has_ended_every_file_is_as_it_left_it(copies, name, harm):
    path = sorted(copies.glob(f"whole/runs/*/{name}"))[0]
    HARMS[harm](path)
    refused(decentral("compare", "whole"), path)
    refused(decentral("run", "x.toml", "--out", "whole", "--resume"), path)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["experiment.toml", "results.csv"])
def test_the_files_of_the_experiment_are_checked_and_made_again(copies, name, harm):
    path = copies / "whole" / name
    HARMS[harm](path)
    said = decentral("compare", "whole")
    refused(said, path)
    if harm != "a folder":
        assert decentral("run", "x.toml", "--out", "whole", "--resume").code == 0
        assert decentral("compare", "whole").code == 0


def test_folders_of_older_versions_are_read_as_they_are(copies):
    file = copies / "whole" / "experiment.toml"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    for path in copies.glob("whole/runs/*/status.json"):
        status = json.loads(path.read_text())
        path.write_text(json.dumps({key: status[key] for key in ("status", "message", "final")}))
    assert decentral("compare", "whole").code == 0
    assert len(read_experiment(copies / "whole").runs) == 2
    assert decentral("run", "x.toml", "--out", "whole", "--resume").code == 0


def test_torch_and_zip_read_a_sealed_checkpoint_too(tmp_path):
    with (tmp_path / "x.pt").open("wb") as file:
        sealed.save({"x": torch.arange(5.0)}, file)
    assert torch.load(tmp_path / "x.pt")["x"].tolist() == [0, 1, 2, 3, 4]
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
