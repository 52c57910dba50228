"""Networks of nodes through the command line: what a run writes, what it equals, what it refuses."""

import csv
import json

import pytest
import tomli_w
from command import decentral
from ranks import decentral as launch

from decentral.problems.data.babi import story_lines

LISTS = {
    "problem": {"name": "list-reduction", "train": 60, "validation": 30, "width": 8},
    "dataflow": {"max_active_keys": 4},
    "train": {"lr": 0.1, "rounds": 3, "dtype": "float64"},
}
TREES = {
    "problem": {"name": "sentiment-trees", "width": 4},
    "dataflow": {"max_active_keys": 16, "min_update_frequency": 50},
    "optimizer": {"name": "adam"},
    "train": {"lr": 0.01, "rounds": 1},
}
STORIES = {**TREES, "problem": {"name": "basic-deduction", "stories": "babi15", "data_root": "."}}
DIGITS = {
    "problem": {"name": "mlp", "hidden": [16, 16]},
    "dataflow": {"workers": 3, "max_active_keys": 3},
    "train": {"lr": 0.1, "rounds": 2, "batch_size": 20},
}
EXACT = {"max_active_keys": 1, "unit": "instances", "batching": False, "ordered": True}
TIMES = {"wall_s", "simulated_s", "instances_per_s", "occupancy", "mpi_bytes_sent"}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """With a few stories in it, where bAbI's lie below a data root."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "babi" / "en").mkdir(parents=True)
    for part, stories in (("train", 40), ("test", 20)):
        lines = "\n".join(story_lines(part, stories))
        (tmp_path / "babi" / "en" / f"qa15_basic-deduction_{part}.txt").write_text(lines)


def changed(table, **changes):
    return {**table, **{key: {**table.get(key, {}), **value} for key, value in changes.items()}}


def write(table, name="x.toml"):
    with open(name, "wb") as file:
        tomli_w.dump(table, file)
    return name


def rows(out):
    (folder,) = (out / "runs").iterdir()
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file)), folder


def measured(out):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows(out)[0]]


@pytest.mark.parametrize(
    "table",
    [
        LISTS,
        pytest.param(TREES, marks=pytest.mark.slow),
        pytest.param(STORIES, marks=pytest.mark.slow),
        DIGITS,
    ],
    ids=["lists", "trees", "graphs", "mlp"],
)
def test_a_run_leaves_its_files_and_repeats_itself(tmp_path, table):
    said = decentral("run", write(table), "--out", "out")
    assert said.code == 0, said.err
    recorded, folder = rows(tmp_path / "out")
    assert [int(row["round"]) for row in recorded] == list(range(1, table["train"]["rounds"] + 1))
    assert float(recorded[-1]["train_loss"]) > 0
    assert 0 <= float(recorded[-1]["test_accuracy"]) <= 1
    assert 0 < float(recorded[-1]["occupancy"]) <= 1
    assert int(recorded[-1]["updates"]) > 0
    assert json.loads((folder / "staleness.json").read_text())
    lanes = {
        e["args"]["name"]
        for e in json.loads((folder / "trace.json").read_text())["traceEvents"]
        if e["ph"] == "M"
    }
    assert lanes == {f"worker {w}" for w in range(table["dataflow"].get("workers", 1))}
    assert (tmp_path / "out" / "figures" / "timeline.png").exists()
    assert "staleness: messages" in (tmp_path / "out" / "report.html").read_text()
    assert decentral("run", folder / "config.toml", "--out", "again").code == 0
    assert measured(tmp_path / "again") == measured(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "table", [LISTS, changed(STORIES, train={"dtype": "float64"})], ids=["lists", "graphs"]
)
def test_one_instance_at_a_time_is_the_synchronous_baseline(tmp_path, table):
    runs = {"messages": EXACT | {"reduce": "sum", "min_update_frequency": 1}, "synchronous": {"minibatch": 1}}
    for runtime, settings in runs.items():
        path = write({**table, "dataflow": {"runtime": runtime, **settings}}, f"{runtime}.toml")
        assert decentral("run", path, "--out", runtime).code == 0
    one, other = (rows(tmp_path / runtime)[0] for runtime in runs)
    for a, b in zip(one, other, strict=True):
        for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-9), key


@pytest.mark.mpi
@pytest.mark.parametrize("replicas", [1, 2])
def test_metrics_are_bit_equal_on_one_two_and_four_ranks(tmp_path, replicas):
    settings = {**EXACT, "workers": 4, "replicas": replicas, "min_update_frequency": 2}
    table = changed(LISTS, problem={"train": 24, "validation": 12})
    path = tmp_path / write({**table, "dataflow": settings})
    for ranks in (1, 2, 4):
        done = launch("run", path, "--out", tmp_path / f"on{ranks}", ranks=ranks, drawn=False)
        assert done.returncode == 0, done.stderr
    one, two, four = (measured(tmp_path / f"on{ranks}") for ranks in (1, 2, 4))
    assert len(one) == 3
    assert two == one
    assert four == one


@pytest.mark.mpi
def test_many_instances_on_two_ranks_end_and_learn(tmp_path):
    table = changed(LISTS, dataflow={"workers": 2, "max_active_keys": 16, "min_update_frequency": 20})
    done = launch("run", tmp_path / write(table), "--out", tmp_path / "out", ranks=2)
    assert done.returncode == 0, done.stderr
    recorded, folder = rows(tmp_path / "out")
    assert float(recorded[-1]["train_loss"]) < float(recorded[0]["train_loss"])
    assert sum(b["bytes"] for b in json.loads((folder / "boundaries.json").read_text())) > 0


def test_a_loss_that_overflows_ends_the_run_and_keeps_its_rows(tmp_path):
    said = decentral("run", write(changed(LISTS, train={"lr": 1e30, "dtype": "float32"})), "--out", "out")
    assert said.code == 3
    assert "is not finite; lower train.lr" in said.err
    assert (tmp_path / "out" / "results.csv").exists()


def test_a_network_is_described_and_drawn(tmp_path):
    said = decentral("network", write(LISTS), "--set", "dataflow.workers=2", "--out", "net.png")
    assert said.code == 0, said.err
    assert all(word in said.out for word in ("cell", "Phi", "parameters"))
    assert (tmp_path / "net.png").stat().st_size > 5_000
    refused = decentral("network", write({**LISTS, "problem": {"name": "quadratic"}}, "y.toml"))
    assert refused.code == 2


REFUSALS = [
    ({"dataflow": {"frequencies": {"cel": 3}}}, "there is no node 'cel'; there are list,"),
    ({"dataflow": {"place": {"loss": 1}}}, "dataflow.place.loss = 1 is no worker; there are 1, from 0"),
    ({"dataflow": {"place": {"list": 1}, "workers": 2}}, "instances begin on worker 0"),
    ({"dataflow": {"workers": 50}}, "dataflow.workers = 50 but the network has"),
    ({"dataflow": {"max_active_keys": 0}}, "dataflow.max_active_keys = 0 must be at least 1"),
    ({"dataflow": {"ordered": True}}, "set dataflow.batching = false"),
    ({"dataflow": {"unit": "epochs"}}, "dataflow.unit = 'epochs'"),
    ({"problem": {"name": "cnn"}}, "has no network of nodes; use one of mlp, list-reduction"),
    ({"train": {"batch_size": 5}}, "train.batch_size has no meaning with [dataflow]"),
    ({"program": {"name": "local"}}, "section [program] has no meaning where there is [dataflow]"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSALS, ids=[words[:30] for _, words in REFUSALS])
def test_refusals(tmp_path, change, words):
    table = changed(LISTS, **change)
    if "problem" in change:
        table["problem"] = change["problem"]
    said = decentral("run", write(table), "--out", "out")
    assert said.code == 2, said.out
    assert words in said.err.replace("\n", " ")
    assert not (tmp_path / "out").exists()
