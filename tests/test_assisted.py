"""Runs of a Boss and an Assistant: against plain loops in torch and numpy, counted, repeated, and refused."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tomli_w
import torch
from command import but_wall_time, decentral, metrics, read_csv
from torch.nn import functional

from decentral.comm.world import LocalWorld
from decentral.errors import UserError
from decentral.problems.data import load
from decentral.problems.data.batches import EpochBatches
from decentral.runs.assisted.training import Training, check
from decentral.runs.experiment import expand
from decentral.runs.journal import Journal
from decentral.runs.place import Here
from topologies.streams import stream

BASE = {
    "name": "small",
    "seeds": [3],
    "problem": {"name": "logistic-regression", "data": "digits"},
    "train": {"lr": 0.05, "rounds": 12, "batch_size": 16, "dtype": "float64", "record_every": 3},
    "assistant": {"name": "logistic", "lr": 2.0},
}
HERE = Here(LocalWorld(), torch.device("cpu"))


def table(**changes):
    """BASE with other sections: merged in, or in place of it where they have a name; None: without it."""
    found = {key: dict(value) if isinstance(value, dict) else value for key, value in BASE.items()}
    for key, value in changes.items():
        if isinstance(value, dict) and "name" not in value:
            value = {**found.get(key, {}), **value}
        found[key] = value
    return {key: value for key, value in found.items() if value is not None}


def trained(**changes):
    """The programs of a run after its end, in this process."""
    (planned,) = expand(table(**changes)).runs
    training = Training(planned.config, HERE, Journal())
    outcome = training.run()
    assert outcome.status == "finished"
    return training


def recorded(name, **changes):
    """The rows of its metrics.csv."""
    with open(f"{name}.toml", "w") as file:
        file.write(tomli_w.dumps(table(**changes)))
    said = decentral("run", f"{name}.toml", "--out", name)
    assert said.code == 0, said.err
    (rows,) = metrics(Path(name)).values()
    return rows


def the_order(samples, size, seed):
    """Endless: (sample, coin) of each that is scanned."""
    order, k = EpochBatches([len(samples)], [0], size, seed), 0
    while True:
        coins = stream(seed, "coins", k // size).random(size)
        yield from zip(samples[order.at(k // size)[0]], coins, strict=True)
        k += size


@pytest.mark.parametrize("target", ["mean", "misclassified"])
def test_a_synchronous_run_is_boss_and_assistant_by_turns_in_plain_torch(target):
    momentum, decay, size = 0.9, 0.01, 16
    made = trained(
        assistant={"synchronous": True, "target": target},
        train={"weight_decay": decay}, optimizer={"name": "sgd", "momentum": momentum},
    )  # fmt: skip
    data = load("digits")
    x, y = data.train_x.double(), data.train_y
    flat = x.flatten(1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()
    start = made.objective.start()
    with torch.no_grad():
        model[1].weight.copy_(start[:640].view(10, 64))
        model[1].bias.copy_(start[640:])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum, weight_decay=decay)
    drawn = torch.from_numpy(0.001 * stream(3, "assistant").standard_normal(74))
    w, u = drawn[:64].clone(), drawn[64:].clone()
    scanning = the_order(made.objective.shards[0], size, 3)
    total = count = 0.0
    scanned = judged = 0
    for t in range(12):
        rows = []
        while len(rows) < size:
            i, coin = next(scanning)
            scanned += 1
            judged += coin >= 0.3
            if coin < 0.3 + 0.7 * torch.sigmoid(w @ flat[i] + u[y[i]]):
                rows.append(i)
        rows = torch.tensor(rows)
        optimizer.zero_grad()
        logits = model(x[rows])
        losses = functional.cross_entropy(logits, y[rows], reduction="none")
        losses.mean().backward()
        optimizer.step()
        losses = losses.detach()
        total, count = 0.75 * total + 0.25 * losses.sum(), 0.75 * count + 0.25 * size
        hard = losses > total / count if target == "mean" else logits.argmax(1) != y[rows]
        if t < 11:
            r = torch.sigmoid(flat[rows] @ w + u[y[rows]]) - hard.double()
            u = u - 2.0 / size * torch.zeros(10).double().index_add(0, y[rows], r + 1e-3 * u[y[rows]])
            w = w - 2.0 / size * (r @ flat[rows] + 1e-3 * w)
    boss, feeder = made.boss, made.feeder
    np.testing.assert_allclose(boss.x[0, :640], model[1].weight.detach().flatten(), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(boss.x[0, 640:], model[1].bias.detach(), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(feeder.chooser.w, w, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(feeder.chooser.u, u, rtol=1e-10, atol=1e-13)
    assert boss.scanned == scanned > 12 * size
    assert boss.staleness == {0: 12}
    assert boss.assistant_flops == 2 * 64 * judged + 4 * 64 * size * 11


def libsvm(folder):
    """Files that are read as the set a9a: 60 samples of 123 features, of which few are there."""
    rng = np.random.default_rng(8)
    (folder / "libsvm").mkdir()
    for name, count in (("a9a", 60), ("a9a.t", 20)):
        x = rng.random((count, 123)) < 0.05
        x[:, 0] = True  # no sample is empty
        y = np.where(x[:, 1:40].sum(1) > x[:, 40:79].sum(1), "+1", "-1")
        lines = [
            f"{s} {' '.join(f'{j + 1}:1' for j in np.flatnonzero(row))}" for s, row in zip(y, x, strict=True)
        ]
        (folder / "libsvm" / name).write_text("\n".join(lines) + "\n")
    return str(folder)


def test_pegasos_with_shrinking_is_a_loop_over_samples_in_numpy(tmp_path):
    root, decay, t0, epsilon, rounds = libsvm(tmp_path), 0.05, 100, 0.7, 150
    made = trained(
        problem={"name": "linear-svm", "data": "a9a", "data_root": root},
        train={"lr": 1 / (decay * t0), "rounds": rounds, "batch_size": 1, "weight_decay": decay},
        schedule={"name": "inverse", "offset": float(t0)},
        assistant={"name": "margin", "epsilon": epsilon, "pace": "scanned", "synchronous": True},
    )
    data = load("a9a", root)
    x, s = data.train_x.double().numpy(), 2 * data.train_y.numpy() - 1
    w, steps, k = np.zeros(123), 0, 0
    for i, coin in the_order(made.objective.shards[0], 1, 3):
        violated = s[i] * (w @ x[i]) < 1
        if coin < 0.3 or coin < np.linalg.norm(x[i]) * violated - epsilon / (k + 1):
            w = w - (decay * w - s[i] * violated * x[i]) / (decay * (k + t0))
            steps += 1
        k += 1
        if steps == rounds:
            break
    assert k > 1.2 * rounds
    assert made.boss.scanned == k
    np.testing.assert_allclose(made.boss.x[0], w, rtol=1e-10, atol=1e-13)


COMMON = (
    "round", "epoch", "samples", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
    "test_accuracy_worker_mean", "test_accuracy_worker_min", "consensus_sq",
)  # fmt: skip


@pytest.mark.parametrize("name", ["logistic", "none"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_with_base_1_a_run_is_ordinary_training_bit_for_bit(home, model, name):
    same = {
        "problem": {"name": model, "data": "digits"}, "optimizer": {"name": "sgd", "momentum": 0.9},
        "schedule": {"name": "cosine"},
        "train": {"rounds": 6, "dtype": "float32", "weight_decay": 1e-3, "clip_norm": 0.5, "eval_samples": 100},
    }  # fmt: skip
    alone = {"topology": {"name": "complete", "workers": 1}, "algorithm": {"name": "dsgd"}}
    ordinary = recorded("ordinary", **same, **alone, assistant=None)
    assisted = recorded("assisted", **same, assistant={"name": name, "base": 1.0})
    assert [[row[c] for c in COMMON] for row in assisted] == [[row[c] for c in COMMON] for row in ordinary]
    assert [row["scanned"] for row in assisted] == [row["samples"] for row in assisted]
    if name == "none":
        assert {row["assistant_steps"] for row in assisted} == {"0"}


def test_a_run_counts_what_both_do_and_repeats_itself(home):
    rows = recorded("once", train={"rounds": 60}, assistant={"queue": 8, "enough": 3})
    assert but_wall_time(rows) == but_wall_time(
        recorded("twice", train={"rounds": 60}, assistant={"queue": 8, "enough": 3})
    )
    for row in rows:
        t = int(row["round"])
        assert int(row["samples"]) == 16 * t
        assert int(row["scanned"]) >= 16 * t
        assert float(row["bytes_sent_mean"]) == t * (16 * 8 + 16)  # numbers of samples, and a truth of each
        assert int(row["messages"]) == 2 * t
        assert int(row["mpi_bytes_sent"]) == 0
        if t:
            assert float(row["staleness_max"]) <= 8
            assert float(row["batch_loss"]) > 0
    # the Boss starts when its first batch has come, and is busy ever after
    step_s = 16 * 64 * 10 * 4 / 1e10
    last = rows[-1]
    assert 60 * step_s < float(last["simulated_s"]) < 61 * step_s
    ours = float(last["flops"]) - 60 * step_s * 1e10  # the Assistant's
    assert 2 * 64 * 0.6 * int(last["scanned"]) < ours
    assert ours < 2 * 64 * int(last["scanned"]) + 4 * 64 * 16 * 60
    results = read_csv(home / "once" / "results.csv")[0]
    assert results["scanned"] == last["scanned"]


def test_a_third_rank_has_nothing_to_do():
    (planned,) = expand(table()).runs
    check(planned.config, SimpleNamespace(ranks=2))
    with pytest.raises(
        UserError, match="2 programs, the Boss and the Assistant, but MPI has 3 ranks; launch 2 ranks"
    ):
        check(planned.config, SimpleNamespace(ranks=3))


def test_a_run_that_diverges_ends_with_a_line(home):
    (home / "bad.toml").write_text(tomli_w.dumps(table(train={"lr": 1e25, "rounds": 100})))
    said = decentral("run", "bad.toml", "--out", "bad")
    assert said.code == 3
    assert "its loss is" in said.err


REFUSED = {
    "base": ({"assistant": {"base": 2.0}}, "[assistant] base = 2.0 must be a probability"),
    "unknown": ({"assistant": {"name": "logistics"}}, "did you mean 'logistic'"),
    "workers": (
        {"topology": {"name": "ring", "workers": 4}, "algorithm": {"name": "dsgd"}},
        "section [topology] has no meaning with [assistant]",
    ),
    "text": ({"problem": {"name": "lstm"}}, "no samples with a label each"),
    "quadratic": ({"problem": {"name": "quadratic"}}, "no samples with a label each"),
    "full": ({"train": {"batch_size": "full"}}, "leaves an Assistant nothing to choose"),
    "compute": ({"network": {"compute": {"name": "constant", "compute_s": 1.0}}}, 'use "flops"'),
    "pace": ({"assistant": {"pace": "scanned"}}, 'schedule.name = "inverse"'),
    "margin": ({"assistant": {"name": "margin"}}, "is for problem.name"),
    "classes": (
        {"problem": {"name": "linear-svm", "data": "digits"}, "assistant": {"name": "margin"}},
        "is for two classes, and digits has 10",
    ),
    "room": ({"train": {"batch_size": 10**15}}, "use smaller batches"),
    "oracle": ({"train": {"oracle": "loop"}}, "train.oracle has no meaning with [assistant]"),
    "stages": (
        {"stages": {"count": 2}, "program": {"name": "backprop"}},
        "section [assistant] has no meaning",
    ),
    "cluster": ({"network": {"overlap": True}}, "network.overlap has no meaning with [assistant]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(home, case):
    changes, said = REFUSED[case]
    (home / "x.toml").write_text(tomli_w.dumps(table(**changes)))
    answer = decentral("run", "x.toml", "--out", "out")
    assert answer.code == 2, answer.out
    assert said in answer.err, answer.err
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 312
    assert not (home / "out").exists()
