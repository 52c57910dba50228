"""SWAP: together, each alone, averaged. Against torch, by hand, and whatever ends or divides the run."""

import os
import shutil
import signal

import numpy as np
import pytest
import ranks
import torch
from command import but_wall_time, decentral, experiment, metrics, read_csv, write
from test_mpi_parity import compare
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from decentral.comm.world import LocalWorld
from decentral.problems.model_objective import ModelObjective
from decentral.runs.experiment import expand
from decentral.runs.folder import RunFolder
from decentral.runs.journal import Journal
from decentral.runs.kinds import run_of
from decentral.runs.place import Here
from decentral.runs.reading import resolved
from decentral.runs.rounds.phases import PhasedTraining
from decentral.runs.rounds.training import Training
from topologies.streams import stream

HERE = Here(LocalWorld(), torch.device("cpu"))
OWN = {"rounds": 4, "batch_size": 1, "lr": 0.05, "data": "own"}
SEED, WORKERS, TOGETHER, ALONE, BATCH, DECAY = 3, 3, 6, 9, 10, 1e-3
CNN = {
    "seeds": [SEED],
    "problem": {"name": "cnn", "width": 4},
    "topology": {"name": "ring", "workers": WORKERS},
    "algorithm": {"name": "pmsgd"},
    "train": {
        "lr": 0.1, "rounds": TOGETHER, "batch_size": 40, "weight_decay": DECAY, "dtype": "float32", "record_every": 2,
    },
    "phases": {
        "replicas": {"rounds": ALONE, "batch_size": BATCH, "lr": 0.05, "schedule": {"name": "cosine"}},
    },
}  # fmt: skip


class Seen(PhasedTraining):
    """Keeps what there was before the average."""

    def _unite(self):
        self.before = self.x.clone()
        self.buffers_before = {name: rows.clone() for name, rows in self.objective.buffers.items()}
        super()._unite()


def trained(kind, journal=None, **changes):
    """The only run of the table, over."""
    (planned,) = expand(experiment(**changes)).runs
    training = kind(planned.config, HERE, journal or Journal())
    training.outcome = training.run()
    return training


def rows_of(tmp_path, **changes):
    """Its records as numbers, and what results.csv has of it."""
    folder = RunFolder(tmp_path)
    training = trained(Seen, Journal(folder), **changes)
    return [{k: float(v) for k, v in row.items()} for row in folder.rows()], training.outcome.final


# ----------------------------------------------------------------------------------------------- bytes and the clock


@pytest.mark.parametrize(
    ("algorithm", "first", "phase_1"),
    [  # 3 float64, 4 workers: an all-reduce is 2 (3 / 4) 24 bytes a worker, a ring's round 2 vectors of 24
        ("pmsgd", False, 6 * 36),
        ("dsgd", False, 6 * 48),
        ("dsgd", True, 6 * 48 + 36),
    ],
)
def test_bytes_and_seconds_are_those_of_each_phase(tmp_path, algorithm, first, phase_1):
    rows, final = rows_of(
        tmp_path,
        algorithm={"name": algorithm},
        phases={"average_first": first, "replicas": {**OWN, "lr": 1e-12}},
        network={
            "latency_s": 0.5,
            "bandwidth_bytes_s": 1e2,
            "compute": {"name": "constant", "compute_s": 0.01},
        },
    )
    assert [row["phase"] for row in rows] == [1] * 7 + [2] * 4 + [3]
    assert [row["round"] for row in rows] == list(range(12))
    assert [final[f"bytes_phase_{k}"] for k in (1, 2, 3)] == [phase_1, 0, 36]
    assert [row["bytes_sent_mean"] for row in rows[8:]] == [phase_1] * 3 + [phase_1 + 36]
    reduce_s = 2 * 3 * (0.5 + 24 / 4 / 1e2)
    seconds = np.diff([row["simulated_s"] for row in rows])[6:]
    expected = [0.01 + first * reduce_s, 0.01, 0.01, 0.01, reduce_s]
    np.testing.assert_allclose(seconds, expected, rtol=1e-12)
    apart = algorithm == "dsgd" and not first  # as the second phase finds and, with this lr, leaves them
    assert [row["consensus_sq"] > 1e-9 for row in rows[6:]] == [algorithm == "dsgd"] + [apart] * 4 + [False]
    assert rows[11]["consensus_sq"] == 0


def test_a_compressed_run_is_averaged_whole(tmp_path):
    rows, final = rows_of(
        tmp_path, algorithm={"name": "choco"}, compression={"name": "top-k"}, phases={"replicas": OWN}
    )
    assert final["bytes_phase_3"] == 36
    assert rows[-2]["consensus_sq"] > 0 == rows[-1]["consensus_sq"]


def test_the_pass_for_statistics_takes_its_time(tmp_path):
    changes = {**CNN, "network": {"compute": {"name": "per-sample", "sample_s": 0.001}}}
    rows, _ = rows_of(tmp_path, **changes)
    seconds = np.diff([row["simulated_s"] for row in rows])
    np.testing.assert_allclose(seconds[:3], 2 * 40 * 0.001)
    np.testing.assert_allclose(seconds[3:7], 2 * BATCH * 0.001)
    np.testing.assert_allclose(seconds[-1], 1437 // BATCH * BATCH * 0.001 / 3)  # forward passes
    assert rows[-1]["samples"] == WORKERS * (TOGETHER * 40 + ALONE * BATCH)


# ------------------------------------------------------------------------------------------------------- against torch


def order(worker, size, entries):
    """The worker's endless order of so many samples, by the law of its stream: epochs that share a generator."""
    epochs = max(1, 1024 // size)
    blocks, found = -(-entries // (size * epochs)), []
    for block in range(blocks):
        rows = np.tile(np.arange(size), (epochs, 1))
        found.append(stream(SEED, "data", worker, block).permuted(rows, axis=1).ravel())
    return np.concatenate(found)


def loaded(made, row, buffers):
    """A module of the problem with these parameters and buffers."""
    module = made.module
    nn.utils.vector_to_parameters(row.clone(), module.parameters())
    for name, buffer in module.named_buffers():
        buffer.copy_(buffers[name])
    return module.train()


def rule(name, parameters):
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=1.0, momentum=0.9, weight_decay=DECAY)
    return torch.optim.AdamW(parameters, lr=1.0, weight_decay=DECAY)


@pytest.mark.parametrize(
    ("algorithm", "data", "optimizer"),
    [("pmsgd", "all", "sgd"), ("dmsgd", "own", "sgd"), ("dsgd", "all", "adamw")],
)
def test_workers_alone_are_those_of_torch_bit_for_bit(algorithm, data, optimizer):
    changes = {**CNN, "algorithm": {"name": algorithm}}
    replicas = {**CNN["phases"]["replicas"], "data": data}
    if optimizer != "sgd":
        replicas["optimizer"] = {"name": optimizer}  # else the momentum of the method, begun anew
    first = trained(Training, **{key: value for key, value in changes.items() if key != "phases"})
    whole = trained(Seen, **{**changes, "phases": {"replicas": replicas}})
    assert whole.outcome.status == "finished"
    shards = whole.config.problem.made(WORKERS, SEED).shards
    for worker in range(WORKERS):
        made = whole.config.problem.made(WORKERS, SEED)
        buffers = {name: rows[worker] for name, rows in first.objective.buffers.items()}
        module = loaded(made, first.x[worker], buffers)
        step = rule(optimizer, module.parameters())
        samples = np.concatenate(shards) if data == "all" else shards[worker]
        endless = samples[order(worker, len(samples), (TOGETHER + ALONE) * BATCH)]
        for t in range(ALONE):
            batch = endless[(TOGETHER + t) * BATCH :][:BATCH]
            step.zero_grad()
            cross_entropy(module(made.dataset.train_x[batch]), made.dataset.train_y[batch]).backward()
            step.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * t / ALONE)) / 2
            step.step()
        assert torch.equal(nn.utils.parameters_to_vector(module.parameters()), whole.before[worker])
        assert not torch.equal(first.x[worker], whole.before[worker])
        for name, buffer in module.named_buffers():
            assert torch.equal(buffer, whole.buffers_before[name][worker]), name


def test_what_ends_the_run_is_the_mean_with_statistics_of_its_own():
    whole = trained(Seen, **CNN)
    total = whole.before[0] + whole.before[1] + whole.before[2]
    assert torch.equal(whole.x, (total / 3).expand(3, -1))
    made = whole.config.problem.made(WORKERS, SEED)
    images, owned = made.dataset.train_x, np.concatenate(made.shards)
    chosen = stream(SEED, "statistics").permutation(owned)[: len(owned) // BATCH * BATCH].reshape(-1, BATCH)
    module = loaded(made, whole.x[0], {name: rows[0] for name, rows in whole.buffers_before.items()})
    update_bn([images[batch] for batch in chosen], module)
    for name, buffer in module.named_buffers():
        assert torch.equal(whole.objective.buffers[name], buffer.expand(3, *buffer.shape)), name
    # of the first layer by hand: the mean of means, and the mean of unbiased variances
    with torch.no_grad():
        outs = [module[0](images[batch]).transpose(0, 1).flatten(1).double() for batch in chosen]
    found = whole.objective.buffers
    torch.testing.assert_close(
        found["1.running_mean"][0].double(), torch.stack([o.mean(1) for o in outs]).mean(0)
    )
    torch.testing.assert_close(
        found["1.running_var"][0].double(), torch.stack([o.var(1) for o in outs]).mean(0)
    )
    # the last record is of that model
    module.eval()
    right = (module(made.dataset.test_x).argmax(1) == made.dataset.test_y).double().mean()
    final = whole.outcome.final
    assert final["test_accuracy"] == pytest.approx(float(right), rel=1e-12)
    assert final["test_accuracy_worker_min"] == final["test_accuracy_worker_mean"] == final["test_accuracy"]
    assert final["test_accuracy_replicas"] != final["test_accuracy"]


# ------------------------------------------------------------------------------------------------- what averaging does


def test_with_gradient_noise_the_average_has_the_nth_part_of_a_worker_s_risk(tmp_path):
    n, d, lr, noise = 8, 4_000, 0.1, 0.3
    rows, _ = rows_of(
        tmp_path,
        problem={
            "name": "quadratic", "dimension": d, "condition": 1.0, "diagonal": True, "heterogeneity": 0.0,
            "noise": noise,
        },
        topology={"workers": n},
        train={"rounds": 5, "record_every": 5},
        phases={"replicas": {"rounds": 150, "batch_size": 1, "lr": lr, "data": "own"}},
    )  # fmt: skip
    risk = d * lr**2 * noise**2 / (1 - (1 - lr) ** 2) / 2  # curvature 1: half the squared distance
    before, after = rows[-2], rows[-1]
    assert (before["phase"], after["phase"]) == (2, 3)
    assert before["bias_sq"] / 2 == pytest.approx(risk, rel=4 * np.sqrt(2 / (n * d)))
    assert after["bias_sq"] / 2 == pytest.approx(risk / n, rel=4 * np.sqrt(2 / d))
    assert after["bias_sq"] == pytest.approx(before["mean_bias_sq"], rel=1e-12)


def test_models_of_different_beginnings_have_no_average():
    """What phase 2 shares, its beginning, is what makes the average of use."""
    changes = {**CNN, "train": {**CNN["train"], "rounds": 40, "record_every": 40}}
    changes["topology"] = {"name": "complete", "workers": 2}
    changes["phases"] = {"replicas": {**CNN["phases"]["replicas"], "rounds": 20}}
    swap = trained(Seen, **changes).outcome.final
    assert swap["test_accuracy"] > swap["test_accuracy_replicas"] - 0.02
    del changes["phases"]
    others = [trained(Training, **{**changes, "seeds": [seed]}) for seed in (0, 1)]
    kept = others[0]
    kept.x[1] = others[1].x[0]
    kept.x.copy_(kept.x.mean(0))
    kept.objective.renew_statistics(kept.x, BATCH)
    accuracy = kept.objective.evaluate(kept.x[:1], kept.x, kept.comm, True)["test_accuracy"]
    assert min(one.outcome.final["test_accuracy"] for one in others) > 0.8
    assert accuracy < 0.6
    assert swap["test_accuracy"] > 0.8


# ------------------------------------------------------------------------------------------------ ended, and on ranks

SMALL = {
    **CNN,
    "train": {**CNN["train"], "rounds": 30, "record_every": 3, "checkpoint_every": 4, "lr": 0.2},
    "phases": {
        "until_train_accuracy": 0.3,
        "replicas": {**CNN["phases"]["replicas"], "optimizer": {"name": "adam"}},
    },
    "network": {"latency_s": 1e-3, "compute": {"name": "lognormal", "median_s": 0.01, "sigma": 1.0}},
}


def at_round(monkeypatch, t):
    """SIGTERM comes while round t is made."""
    moved = Journal.moved

    def sent(journal, done):
        moved(journal, done)
        if done == t:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Journal, "moved", sent)


def test_ended_in_any_phase_it_goes_on_to_the_same_bits(home):
    file = write(home / "x.toml", **SMALL)
    assert decentral("run", file, "--out", "whole").code == 0
    ((name, rows),) = metrics(home / "whole").items()
    since = max(int(row["round"]) for row in rows if row["phase"] == "1")
    assert 0 < since < 30
    assert float(rows[since // 3]["train_accuracy"]) >= 0.3 > float(rows[since // 3 - 1]["train_accuracy"])
    # in the first phase, in its last round, in the second, and between that and the third
    for t, phase in ((since - 2, 1), (since - 1, 2), (since + 3, 2), (since + ALONE - 1, 2)):
        with pytest.MonkeyPatch.context() as patch:
            at_round(patch, t)
            assert decentral("run", file, "--out", "out").code == 128 + signal.SIGTERM
        kept = torch.load(home / "out" / "runs" / name / "checkpoint.pt")
        assert (kept["t"], kept["phases"][0]) == (t + 1, phase)
        assert decentral("run", file, "--out", "out", "--resume").code == 0
        assert but_wall_time(metrics(home / "out")[name]) == but_wall_time(rows)
        results = [but_wall_time(read_csv(home / folder / "results.csv")) for folder in ("out", "whole")]
        assert results[0] == results[1]
        assert "1 of 1 runs have ended before" in decentral("run", file, "--out", "out", "--resume").err
        shutil.rmtree(home / "out")


def test_a_pass_for_statistics_that_dies_begins_again(home, monkeypatch):
    file = write(home / "x.toml", **CNN)
    assert decentral("run", file, "--out", "whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(ModelObjective, "renew_statistics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decentral("run", file, "--out", "out")
    ((name, rows),) = metrics(home / "whole").items()
    assert torch.load(home / "out" / "runs" / name / "checkpoint.pt")["t"] == TOGETHER + ALONE
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    assert but_wall_time(metrics(home / "out")[name]) == but_wall_time(rows)


@pytest.mark.mpi
def test_ranks_change_nothing(home):
    changes = {**SMALL, "topology": {"name": "ring", "workers": 4}, "algorithm": {"name": "dmsgd"}}
    file = write(home / "x.toml", **changes)
    assert decentral("run", file, "--out", "one").code == 0
    done = ranks.decentral("run", file, "--out", home / "two", ranks=2, drawn=False)
    assert done.returncode == 0, done.stderr
    compare(metrics(home / "one"), metrics(home / "two"), 0)
    (one,), (two,) = (read_csv(home / out / "results.csv") for out in ("one", "two"))
    assert one["phase"] == two["phase"] == "3"
    assert int(one["round"]) < 30 + ALONE  # the ranks have found alike that the first phase is over
    for name in (
        "bytes_phase_1",
        "bytes_phase_2",
        "bytes_phase_3",
        "test_accuracy",
        "test_accuracy_replicas",
    ):
        assert one[name] == two[name]
    assert float(one["bytes_phase_1"]) > float(one["bytes_phase_3"]) > float(one["bytes_phase_2"]) == 0


# ------------------------------------------------------------------------------------------------------------- the file


def test_the_table_says_all_and_is_read_again_and_others_have_none():
    table = {"name": "small", **experiment(**CNN)}
    run = run_of(table)
    written = resolved(run)
    assert written["phases"] == {
        "average_first": False,
        "replicas": {
            "rounds": ALONE, "batch_size": BATCH, "lr": 0.05, "data": "all",
            "schedule": {"name": "cosine", "final": 0.0, "warmup_rounds": 0},
            "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": False},
        },
    }  # fmt: skip
    assert resolved(run_of(written)) == written
    assert run.all_rounds == TOGETHER + ALONE + 1
    assert "phases" not in resolved(run_of({key: table[key] for key in table if key != "phases"}))
    adam = run_of({**table, "optimizer": {"name": "adam"}})
    assert resolved(adam)["phases"]["replicas"]["optimizer"]["name"] == "adam"


def replicas(**changes):
    return {"phases": {"replicas": {**OWN, "data": "all", **changes}}}


REFUSED = [
    ({"phases": {}}, "missing key phases.replicas"),
    ({"phases": {"replicas": OWN, "untill": 1}}, "unknown key phases.untill"),
    (replicas(optimiser={}), "did you mean 'optimizer'"),
    (replicas(rounds=0), "phases.replicas.rounds = 0 must be positive"),
    (replicas(lr=float("inf")), "phases.replicas.lr = inf must be positive and finite"),
    (replicas(batch_size="full"), "phases.replicas.batch_size = 'full' should be a valid integer"),
    (replicas(batch_size=1438), "phases.replicas.batch_size = 1438, and there are 1437 training samples"),
    (replicas(batch_size=480, data="own"), "the worker with the fewest has 479 training samples"),
    (replicas(schedule={"name": "cosin"}), "phases.replicas.schedule.name = 'cosin' is not known"),
    (replicas(optimizer={"momentum": 0.9}), "missing key phases.replicas.optimizer.name"),
    (
        {**replicas(), "algorithm": {"name": "diloco"}},
        "missing key phases.replicas.optimizer: the AdamW of DiLoCo",
    ),
    ({**replicas(), "faults": {"loss": 0.1}}, "[phases] cannot go with [faults]"),
    ({**replicas(), "algorithm": {"name": "ad-psgd"}}, "section [phases] has no meaning where there is"),
    (
        {**replicas(), "problem": {"name": "quadratic"}},
        'phases.replicas.data = "all" needs a problem whose samples',
    ),
    (
        {"phases": {"until_train_accuracy": 1.5, "replicas": OWN}},
        "phases.until_train_accuracy = 1.5 must be in (0, 1]",
    ),
    (
        {"phases": {"until_train_accuracy": 0.9, "replicas": OWN}, "problem": {"name": "quadratic"}},
        "phases.until_train_accuracy = 0.9 needs a problem of samples with labels",
    ),
    (
        {**replicas(), "problem": {"name": "module", "factory": "users_models:norm"}},
        "per channel when training, got input size torch.Size([1, 16]); raise phases.replicas.batch_size",
    ),
    (
        {**replicas(batch_size=51, data="own"), "problem": {"name": "linear-regression"}},
        "phases.replicas.batch_size = 51 exceeds problem.samples = 50",
    ),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_has_no_meaning_is_refused_in_a_line(home, changes, words):
    said = decentral("run", write(home / "x.toml", **{**CNN, **changes}), "--out", "out")
    assert said.code == 2
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert len(said.err) < 300
    assert not (home / "out").exists()
