"""A column means the same in every kind of run: the same training as rounds, stages and nodes has the same numbers."""

import csv
import json

import numpy as np
import pytest
import torch
from command import decentral
from tomli_w import dumps
from torch.nn.functional import cross_entropy

import topologies
from decentral.comm import LocalComm
from decentral.problems import MLP
from decentral.problems.data import load
from decentral.problems.objective import Place
from topologies.streams import stream

BASE = {
    "seeds": [5],
    "problem": {"name": "mlp", "hidden": [12, 8], "partition": "dirichlet", "alpha": 0.5},
    "topology": {"name": "star", "workers": 4},
    "algorithm": {"name": "decentlam"},
    "train": {
        "lr": 0.05, "rounds": 6, "batch_size": 8, "dtype": "float64", "weight_decay": 0.01, "record_every": 2,
        "eval_samples": 300,
    },
    "schedule": {"name": "cosine", "warmup_rounds": 2},
}  # fmt: skip
OWN_CLOCK = {"wall_s"}
MODEL = (
    "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_accuracy_worker_mean",
    "test_accuracy_worker_min", "consensus_sq", "round", "samples", "epoch",
)  # fmt: skip
MOVED = ("bytes_sent_mean", "bytes_sent_max", "messages", "mpi_bytes_sent")


@pytest.fixture(autouse=True)
def here(home):
    return home


def changed(**sections):
    table = {key: dict(value) if isinstance(value, dict) else value for key, value in BASE.items()}
    for key, value in sections.items():
        table[key] = {**table.get(key, {}), **value} if "name" not in value else value
    return table


def recorded(table, name):
    """Round -> its row of metrics.csv, as numbers; and the run's folder."""
    with open(f"{name}.toml", "w") as file:
        file.write(dumps(table))
    said = decentral("run", f"{name}.toml", "--out", name)
    assert said.code == 0, said.err
    from pathlib import Path

    (folder,) = Path(name, "runs").iterdir()
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return {row["round"]: row for row in rows}, folder


CASES = {
    "decentlam": {},
    "all-reduce": {"algorithm": {"name": "pmsgd"}},
    "full batches": {"train": {"batch_size": "full", "lr": 0.2}},
    "a bounded record": {"train": {"eval_samples": 50}},
    "one worker": {"topology": {"name": "complete", "workers": 1}, "algorithm": {"name": "dsgd"}},
    "convolutions": {"problem": {"name": "cnn", "width": 2}, "train": {"rounds": 4}},
}


@pytest.mark.parametrize("case", CASES)
def test_one_stage_of_n_workers_has_every_common_column_of_rounds(case):
    table = changed(**CASES[case])
    rounds, _ = recorded(table, "rounds")
    stages, _ = recorded(table | {"stages": {"count": 1}, "program": {"name": "backprop"}}, "stages")
    both = [t for t in rounds if t in stages]
    assert len(both) >= 2
    common = rounds[both[-1]].keys() & stages[both[-1]].keys()
    assert common >= {*MODEL, *MOVED, "simulated_s", "wall_s"}
    for t in both:
        for column in common - OWN_CLOCK:
            assert stages[t][column] == pytest.approx(rounds[t][column], rel=1e-9, abs=1e-15), (t, column)
        for column in (*MOVED, "samples", "epoch"):
            assert stages[t][column] == rounds[t][column]


@pytest.mark.parametrize("count", [2, 3])
def test_k_stages_have_the_models_of_rounds_and_the_bytes_of_workers(count):
    problem, program = {"hidden": [12, 10, 8]}, {"name": "backprop"}
    rounds, _ = recorded(changed(problem=problem), "rounds")
    stages, folder = recorded(changed(problem=problem, stages={"count": count}, program=program), "stages")
    last = BASE["train"]["rounds"]
    for t in (2, 4, last):
        for column in MODEL:
            assert stages[t][column] == pytest.approx(rounds[t][column], rel=1e-9), column
    channels = json.loads((folder / "boundaries.json").read_text())
    inside = sum(c["bytes"] for c in channels if c["source"] // count == c["target"] // count)
    n = BASE["topology"]["workers"]
    assert inside > 0
    assert stages[last]["bytes_sent_mean"] == rounds[last]["bytes_sent_mean"] + inside / n
    assert (
        stages[last]["bytes_sent_max"] == rounds[last]["bytes_sent_max"] + inside / n
    )  # all have the same batches
    assert stages[last]["messages"] == sum(c["messages"] for c in channels if c["bytes"])


def test_a_worker_alone_without_rounds_has_the_columns_of_rounds():
    table = changed(topology={"name": "complete", "workers": 1}, algorithm={"name": "dsgd"})
    rounds, _ = recorded(table, "rounds")
    alone, _ = recorded(table | {"algorithm": {"name": "ad-psgd"}}, "alone")
    for t, row in rounds.items():
        for column in row.keys() - OWN_CLOCK:
            assert alone[t][column] == pytest.approx(row[column], rel=1e-12, abs=1e-15), (t, column)


@pytest.mark.parametrize("runtime", ["messages", "synchronous"])
def test_nodes_are_measured_as_rounds_are(runtime):
    train = BASE["train"] | {"rounds": 2, "batch_size": 100}
    table = {
        "seeds": [5], "problem": {"name": "mlp", "hidden": [12]}, "train": train,
        "dataflow": {"runtime": runtime, "batching": False},
    }  # fmt: skip
    rows, _ = recorded(table, "nodes")
    problem, data = MLP(hidden=(12,)), load("digits")
    model = problem.model(data, 5).double()
    x, y = data.train_x.double(), data.train_y
    order = torch.from_numpy(stream(5, "minibatches").permutation(len(y)))
    batches = torch.split(order, 100)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01)
    place = Place(1, range(1), 5, torch.float64, torch.device("cpu"), 100, 0.01, "loop", 300)
    objective, comm = problem.build(place), LocalComm(np.eye(1))
    for t in range(2):
        losses = []
        for k in stream(5, "order", t).permutation(len(batches)).tolist():
            sgd.zero_grad()
            losses.append(cross_entropy(model(x[batches[k]]), y[batches[k]]))
            losses[-1].backward()
            sgd.step()
        row = torch.cat([p.detach().flatten() for p in model.parameters()])[None]
        values = objective.evaluate(row, row, comm, t == 1) | {
            "batch_loss": float(torch.stack(losses).detach().mean()), "samples": (t + 1) * len(y), "epoch": t + 1,
        }  # fmt: skip
        for column, value in values.items():
            assert rows[t + 1][column] == pytest.approx(value, rel=1e-9), column


def test_training_accuracy_is_weighed_as_the_training_loss_is():
    problem, data = MLP(hidden=(6,), partition="dirichlet", alpha=0.3), load("digits")
    place = Place(3, range(3), 1, torch.float64, torch.device("cpu"), 8, 0.0, "loop", 10_000)
    objective = problem.build(place)
    comm = LocalComm(topologies.mixing_matrix(topologies.complete(3), "metropolis"))
    x = objective.start().expand(3, -1).clone()
    model = problem.model(data, 1).double()
    right = (model(data.train_x.double()).argmax(1) == data.train_y).double()
    expected = np.mean([float(right[shard].mean()) for shard in objective.shards])
    assert objective.evaluate(x[:1], x, comm, False)["train_accuracy"] == pytest.approx(expected, rel=1e-12)
