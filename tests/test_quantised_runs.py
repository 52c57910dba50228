"""The quantised CNN as a problem of runs, and ``decentral quantise``: the same digits on all ranks, and refusals."""

import json

import pytest
from command import decentral, metrics, read_csv, write
from ranks import decentral as in_ranks

from decentral.problems.data import load
from decentral.quantised.stored import load as read
from decentral.runs.findings import kept_model

EVERY_WAY = """
[problem]
name = "quantised-cnn"
width = 2
partition = "dirichlet"
alpha = 0.3
[train]
lr = 0.05
rounds = 2
batch_size = 16
record_every = 1
eval_samples = 100
[topology]
name = "ring"
workers = 4
[[sweep.case]]
algorithm = { name = "pmsgd" }
[[sweep.case]]
algorithm = { name = "dmsgd" }
[[sweep.case]]
algorithm = { name = "decentlam" }
optimizer = { name = "lamb" }
[[sweep.case]]
algorithm = { name = "decentlam" }
topology = { workers = 2 }
stages = { count = 2 }
program = { name = "local" }
"""


def but_own_clock(row):
    """Stages on ranks have no simulated clock."""
    return {k: v for k, v in row.items() if k not in ("wall_s", "simulated_s", "mpi_bytes_sent")}


@pytest.mark.mpi
def test_methods_rules_and_local_stages_have_the_same_digits_bytes_and_models_on_one_two_and_four_ranks(
    tmp_path,
):
    (tmp_path / "x.toml").write_text(EVERY_WAY)
    seen = []
    for ranks in (1, 2, 4):
        folder = tmp_path / f"out{ranks}"
        done = in_ranks("run", tmp_path / "x.toml", "--out", folder, ranks=ranks, drawn=False)
        assert done.returncode == 0, done.stderr
        models = {path.name: kept_model(path) for path in (folder / "runs").iterdir()}
        seen.append((metrics(folder), models))
    (alone, models), *others = seen
    assert len(models) == 4
    for rows, theirs in others:
        assert rows.keys() == alone.keys()
        for run in alone:
            for one, other in zip(alone[run], rows[run], strict=True):
                assert but_own_clock(one) == but_own_clock(other)
        for run, model in models.items():
            assert model.keys() == theirs[run].keys()
            assert all(value.equal(theirs[run][name]) for name, value in model.items())


def small(path, **changes):
    return write(
        path,
        **{
            "problem": {"name": "quantised-cnn", "width": 2},
            "topology": {"name": "ring", "workers": 2},
            "train": {"lr": 0.05, "rounds": 3, "dtype": "float32", "batch_size": 32},
        }
        | changes,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The results of two methods, one without rounds."""
    folder = tmp_path_factory.mktemp("quantised")
    small(folder / "x.toml", sweep={"algorithm": [{"name": "dsgd"}, {"name": "ad-psgd"}]})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("decentral.runs.run._show", lambda folder: None)
        assert decentral("run", folder / "x.toml", "--out", folder / "out").code == 0
    return folder / "out"


def test_the_command_writes_integers_that_are_right_as_often_as_the_run_was(trained, tmp_path):
    dataset = load("digits")
    for row in read_csv(trained / "results.csv"):
        home = trained / "runs" / row["run"]
        said = decentral("quantise", home, "--json")
        assert said.code == 0, said.err
        found = json.loads(said.out)
        assert found["test_accuracy"] == float(row["test_accuracy"])
        network = read(home / "integers.npz")
        right = network(dataset.test_x.numpy()).argmax(1) == dataset.test_y.numpy()
        assert right.mean() == found["test_accuracy"]
        assert [layer["weights"] for layer in found["layers"]] == [18, 72, 144, 160]
        assert found["float32_bytes"] == 4 * (18 + 72 + 144 + 160 + 2 * (2 + 4 + 4))
        first = found["layers"][0]
        assert first["of_fan_in"] == 9 * 7 * 128
        assert first["packed_bytes"] == -(-(18 * 4 + 2 * (first["scale_bits"] + first["shift_bits"])) // 8)
        assert found["packed_bytes"] == sum(layer["packed_bytes"] for layer in found["layers"])
    before = (home / "integers.npz").read_bytes()
    said = decentral("quantise", home, "--out", tmp_path / "other.npz")
    assert said.code == 0
    assert "conv 2" in said.out
    assert "on all 360 test images" in said.out
    assert (tmp_path / "other.npz").read_bytes() == before
    assert decentral("compare", trained).code == 0  # what the command has written harms no reader


def test_what_cannot_be_quantised_is_told_in_a_line(trained, tmp_path, undrawn):
    (home, _) = sorted((trained / "runs").iterdir())
    refusals = {
        (tmp_path,): "is not the folder of a run",
        (trained,): "holds 2 runs",
        (home, "--out", tmp_path): "should be a file",
        (home, "--out", tmp_path / "no" / "x.npz"): "should be a file",
    }
    plain = {
        "problem": {"name": "quadratic"},
        "cnn": {"name": "cnn", "width": 1},
    }
    for name, problem in plain.items():
        small(tmp_path / f"{name}.toml", problem=problem)
        assert decentral("run", tmp_path / f"{name}.toml", "--out", tmp_path / name).code == 0
        why = "batch norms behind sums of floating-point numbers" if name == "cnn" else "no batch norm"
        refusals[tmp_path / name,] = f"which has {why}"
        assert not list((tmp_path / name).glob("runs/*/model.pt"))
    for arguments, words in refusals.items():
        said = decentral("quantise", *arguments)
        assert (said.code, said.out) == (2, "")
        assert words in said.err
        assert said.err.count("\n") == 1
        assert len(said.err) < 300 + len(str(tmp_path))
    assert not (tmp_path / "no").exists()


def test_a_run_that_left_no_whole_model_is_told_apart(trained):
    home = sorted((trained / "runs").iterdir())[0]
    model, status = home / "model.pt", home / "status.json"
    kept = model.read_bytes(), status.read_bytes()
    model.write_bytes(kept[0][:-1] + b"x")
    assert "model.pt is damaged" in decentral("quantise", home).err
    model.unlink()
    assert "has no model.pt" in decentral("quantise", home).err
    status.unlink()
    assert "has not ended" in decentral("quantise", home).err
    model.write_bytes(kept[0])
    status.write_bytes(kept[1])
    assert decentral("quantise", home).code == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight_bits": 9}, "weight_bits = 9 should be 2 to 8"),
        ({"activation_bits": 0}, "activation_bits = 0 should be 1 to 8"),
        ({"width": 40, "weight_bits": 8, "activation_bits": 8}, "float32 has all integers up to 16,777,216"),
        ({"data": "random-labels"}, "needs images"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(tmp_path, changes, words):
    small(tmp_path / "x.toml", problem={"name": "quantised-cnn", "width": 2} | changes)
    said = decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out")
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
