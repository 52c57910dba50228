"""What is recorded is what it says: identities, closed forms, and nothing of it disturbs the run."""

import numpy as np
import pytest
import torch
from command import but_wall_time, decentral, experiment, metrics, read_csv, write
from torch.optim import SGD, lr_scheduler

import topologies
from decentral.comm import LocalComm
from decentral.comm.world import LocalWorld
from decentral.optimizers.schedules import Constant, Cosine, Step
from decentral.report.columns import COLUMNS
from decentral.runs.divergence import first_divergence
from decentral.runs.experiment import expand
from decentral.runs.folder import RunFolder
from decentral.runs.journal import Journal
from decentral.runs.metrics import measure, norms, traffic
from decentral.runs.place import Here
from decentral.runs.rounds.execution import execute
from decentral.runs.rounds.training import Training

FULL = {"problem": {"name": "linear-regression"}, "train": {"batch_size": "full"}}
PROBLEMS = {
    "quadratic": {"problem": {"name": "quadratic", "dimension": 7, "noise": 0.3}},
    "regression": FULL,
    "logistic": {
        "problem": {"name": "logistic-regression", "optimum": True, "partition": "shards"},
        "train": {"batch_size": 16, "weight_decay": 0.1},
    },
}

HERE = Here(LocalWorld(), torch.device("cpu"))


def train(tmp_path, **changes):
    """The rows of metrics.csv as numbers, and the outcome, of the only run."""
    (planned,) = expand(experiment(**changes)).runs
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    outcome = execute(planned.config, HERE, Journal(folder), None)
    return [{k: float(v) for k, v in row.items()} for row in folder.rows()], outcome


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("algorithm", ["pmsgd", "dmsgd", "decentlam"])
def test_the_bias_is_that_of_the_mean_and_the_distance_between_workers(tmp_path, problem, algorithm):
    rows, _ = train(tmp_path, algorithm={"name": algorithm}, **PROBLEMS[problem])
    assert len(rows) == 7
    for row in rows:
        parts = row["mean_bias_sq"] + row["consensus_sq"]
        assert row["bias_sq"] == pytest.approx(parts, rel=1e-12, abs=1e-28)
    assert rows[0]["consensus_sq"] == 0  # all start alike
    assert rows[-1]["bias_sq"] > 0
    assert (rows[-1]["consensus_sq"] > 1e-12) == (algorithm != "pmsgd")


def test_distances_are_those_of_the_models_whatever_the_blocks_they_are_summed_in(monkeypatch):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 1000)))
    expected = ((x - x.mean(0)) ** 2).sum(1)
    np.testing.assert_allclose(norms(x), (x**2).sum(1), rtol=1e-14)
    comm = LocalComm(topologies.mixing_matrix(topologies.ring(5)))

    class NoObjective:
        optimum = x[:1]

        def evaluate(self, *_, **__):
            return {}

    whole = measure(x, comm, NoObjective(), last=False)
    assert whole["consensus_sq"] == pytest.approx(float(expected.mean()), rel=1e-14)
    assert whole["bias_sq"] == pytest.approx(float(((x - x[0]) ** 2).sum(1).mean()), rel=1e-14)
    monkeypatch.setattr("decentral.runs.metrics._ELEMENTS", 1)  # one row at a time, as on as many ranks
    assert measure(x, comm, NoObjective(), last=False) == whole


def test_every_column_has_its_words_for_an_axis(tmp_path):
    rows, outcome = train(tmp_path, **PROBLEMS["logistic"])
    assert rows[0].keys() <= COLUMNS.keys()
    assert outcome.final.keys() <= COLUMNS.keys()
    assert not any(COLUMNS[column].final for column in rows[0])
    assert COLUMNS["spectral_gap"].final
    assert "spectral_gap" in outcome.final


@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("float64", 8)])
@pytest.mark.parametrize(
    ("algorithm", "vectors", "messages"),
    [
        ({"name": "dsgd"}, 2, 2),
        ({"name": "dsgd", "variant": "awc"}, 2, 2),
        ({"name": "dmsgd"}, 2, 2),
        ({"name": "dmsgd", "variant": "doubly-averaged"}, 4, 4),
        ({"name": "decentlam", "momentum": 0.5}, 2, 2),
        ({"name": "pmsgd"}, 2 * 4 / 5, 8),  # 2 (n - 1) / n of the vector in 2 (n - 1) messages
    ],
)
def test_bytes_and_messages_on_a_ring_of_five_are_the_closed_forms(
    tmp_path, algorithm, vectors, messages, dtype, itemsize
):
    d, n = 11, 5
    rows, _ = train(
        tmp_path,
        problem={"name": "quadratic", "dimension": d},
        topology={"workers": n},
        algorithm=algorithm,
        train={"dtype": dtype, "lr": 0.01},
    )
    for row in rows:
        assert (
            row["bytes_sent_mean"]
            == row["bytes_sent_max"]
            == pytest.approx(vectors * d * itemsize * row["round"])
        )
        assert row["messages"] == messages * n * row["round"]
        assert row["mpi_bytes_sent"] == 0


def test_bytes_on_a_star_are_uneven_and_of_a_schedule_those_of_its_rounds(tmp_path):
    rows, _ = train(tmp_path, topology={"name": "star", "workers": 5})
    last, vector = rows[-1], 3 * 8 * 6
    assert last["bytes_sent_max"] == 4 * vector  # the centre
    assert last["bytes_sent_mean"] == (4 + 4) * vector / 5
    (tmp_path / "other").mkdir()
    rows, _ = train(tmp_path / "other", topology={"name": "one-peer-exponential", "workers": 8})
    assert rows[-1]["bytes_sent_mean"] == rows[-1]["bytes_sent_max"] == vector


def test_measuring_is_no_traffic_of_the_method():
    comm = LocalComm(topologies.mixing_matrix(topologies.ring(4)))
    comm.observe_mean(torch.ones(4, 3))
    comm.observe(np.ones((4, 2)))
    sent_bytes, messages, mpi_bytes = traffic(comm)
    assert not sent_bytes.any()
    assert messages == mpi_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "pmsgd"},
        {"name": "dsgd"},
        {"name": "dsgd", "variant": "awc"},
        {"name": "dmsgd", "momentum": 0.8},
        {"name": "dmsgd", "momentum": 0.8, "variant": "awc"},
        {"name": "dmsgd", "momentum": 0.8, "variant": "nesterov"},
        {"name": "dmsgd", "momentum": 0.8, "variant": "doubly-averaged"},
        {"name": "decentlam"},
    ],
    ids=lambda a: "-".join(map(str, a.values())),
)
def test_a_long_run_ends_at_the_bias_that_theory_foretold(tmp_path, algorithm, weight_decay):
    rows, outcome = train(
        tmp_path,
        problem={"name": "quadratic", "dimension": 3, "condition": 2.0},
        algorithm=algorithm,
        train={"rounds": 1500, "record_every": 1500, "weight_decay": weight_decay, "lr": 0.05},
    )
    theory = outcome.final["theory_bias_sq"]
    assert outcome.status == "finished"
    assert rows[-1]["bias_sq"] == pytest.approx(theory, rel=1e-9, abs=1e-24)
    assert (theory > 1e-6) == (algorithm["name"] != "pmsgd")
    assert outcome.final["bias_sq"] == rows[-1]["bias_sq"]


def test_theory_keeps_silent_where_it_does_not_know(tmp_path):
    for k, changes in enumerate(
        [
            {"problem": {"noise": 0.1}},
            {"schedule": {"name": "cosine"}},
            {"topology": {"name": "one-peer-exponential", "workers": 4}},
            PROBLEMS["logistic"],
            {"problem": {"name": "linear-regression"}},  # sampled batches
        ]
    ):
        (tmp_path / str(k)).mkdir()
        assert "theory_bias_sq" not in train(tmp_path / str(k), **changes)[1].final


def test_the_gap_of_a_static_graph_is_reported(tmp_path):
    _, outcome = train(tmp_path, topology={"workers": 8})
    assert outcome.final["spectral_gap"] == pytest.approx(2 / 3 * (1 - np.cos(np.pi / 4)), rel=1e-12)
    assert outcome.final["spectral_gap"] == pytest.approx(0.195262, abs=1e-6)  # fact sheet, section 3


RECORDED = {
    "problem": {"name": "cnn", "width": 4},
    "algorithm": {"name": "decentlam"},
    "schedule": {"name": "cosine"},
    "train": {"rounds": 12, "batch_size": 8, "checkpoint_every": 5},
}


@pytest.mark.parametrize("changes", [RECORDED, PROBLEMS["quadratic"]], ids=["network", "quadratic"])
@pytest.mark.usefixtures("undrawn")
def test_recording_does_not_change_what_is_recorded(tmp_path, changes):
    file, results = write(tmp_path / "x.toml", **changes), {}
    for every in ("1", "auto", "4", "100"):
        out = tmp_path / every
        assert decentral("run", file, "--out", out, "--set", f"train.record_every={every}").code == 0
        ((_, rows),) = metrics(out).items()
        results[every] = {row["round"]: row for row in but_wall_time(rows)}
    often = results.pop("1")
    assert len(often) == int(max(often, key=int)) + 1
    for seldom in results.values():
        assert max(seldom, key=int) == max(often, key=int)  # the last round is always recorded
        assert seldom == {t: often[t] for t in seldom}


@pytest.mark.usefixtures("undrawn")
def test_results_are_the_last_row_of_the_metrics(tmp_path):
    assert decentral("run", write(tmp_path / "x.toml", seeds=[0, 1]), "--out", tmp_path / "out").code == 0
    for result in read_csv(tmp_path / "out" / "results.csv"):
        last = metrics(tmp_path / "out")[result["run"]][-1]
        assert {key: result[key] for key in last} == last
        assert result["status"] == "finished"


def test_the_first_divergence_is_by_round_and_then_by_worker():
    losses = np.ones((5, 4))
    assert first_divergence(losses, 7, 10.0) is None
    losses[3, 0] = np.nan
    losses[2, 3] = np.inf
    losses[2, 1] = 11.0
    losses[4] = np.nan
    assert first_divergence(losses, 7, 10.0) == (9, 1, 11.0)
    losses[2] = 1.0
    t, worker, loss = first_divergence(losses, 7, 10.0)
    assert (t, worker) == (10, 0)
    assert np.isnan(loss)


class Explodes:
    """The quadratic of the small experiment, with a gradient that is not a number for one worker from one round on."""

    def __init__(self, objective, worker, t, value):
        self.objective, self.bad = objective, (worker, t, value)

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def gradient(self, x, t):
        worker, first, value = self.bad
        for columns, g in self.objective.gradient(x, t):
            if t >= first:
                g[worker] = value
            yield columns, g


@pytest.mark.parametrize(("value", "detected"), [(float("nan"), 4), (float("inf"), 4), (1e30, 4)])
def test_a_worker_that_diverges_is_named_with_the_round_and_stops_the_run(tmp_path, value, detected):
    (planned,) = expand(experiment(train={"record_every": 2, "rounds": 20})).runs
    folder = RunFolder(tmp_path)
    training = Training(planned.config, HERE, Journal(folder))
    training.objective = Explodes(training.objective, worker=2, t=3, value=value)
    outcome = training.run()
    assert outcome.status == "diverged"
    assert [row["round"] for row in folder.rows()][:2] == ["0", "2"]
    assert int(folder.rows()[-1]["round"]) <= 4
    # the gradient of round 3 spoils the models of round 4: worker 2's, and through W those of its neighbours 1 and 3
    told = outcome.message.split()
    assert told[0] == "round"
    assert int(told[1].rstrip(",")) == detected
    assert told[3].rstrip(":") in ("1", "2", "3")
    assert outcome.final["round"] == int(folder.rows()[-1]["round"])


def test_a_method_that_overflows_in_its_last_round_has_diverged(tmp_path):
    (planned,) = expand(experiment(train={"rounds": 4, "record_every": 4})).runs
    training = Training(planned.config, HERE, Journal(RunFolder(tmp_path)))
    training.objective = Explodes(training.objective, worker=0, t=3, value=float("inf"))
    outcome = training.run()
    assert outcome.status == "diverged"
    assert outcome.message == "round 4, worker 0: its model overflowed"
    assert outcome.final["round"] == 0


def lrs(schedule, rounds, base=1.0):
    return [schedule.lr(t, rounds, base) for t in range(rounds)]


def test_schedules_give_the_numbers_that_were_worked_out_by_hand():
    assert lrs(Constant(), 3, 0.5) == [0.5, 0.5, 0.5]
    assert lrs(Constant(warmup_rounds=3), 6) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert lrs(Step(milestones=(0.5, 0.75), factor=0.5), 8) == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert lrs(Step(milestones=(0.5,), factor=0.1), 5) == pytest.approx(
        [1, 1, 1, 0.1, 0.1]
    )  # from round 2.5 on
    assert lrs(Step(milestones=(0.5,), factor=0.5, warmup_rounds=1), 4) == [0.5, 1, 0.5, 0.5]
    assert lrs(Cosine(), 4) == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    assert lrs(Cosine(final=0.2), 2) == pytest.approx([1, 0.6])
    assert lrs(Cosine(warmup_rounds=1), 2) == pytest.approx([0.5, 0.5])
    assert all(lr > 0 for lr in lrs(Cosine(warmup_rounds=7), 10))  # nothing divides by zero


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Step((0.4, 0.8), 0.3), lambda o: lr_scheduler.MultiStepLR(o, [8, 16], 0.3)),
        (Cosine(final=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 20, eta_min=0.1 * 0.7)),
        (Constant(warmup_rounds=4), lambda o: lr_scheduler.LinearLR(o, 1 / 5, 1.0, total_iters=4)),
    ],
)
def test_schedules_are_torchs_where_it_has_the_same_rule(ours, theirs):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.7)
    scheduler, expected = theirs(optimizer), []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(lrs(ours, 20, 0.7), expected, rtol=1e-12)


def test_the_schedule_is_what_the_rounds_use(tmp_path):
    # one worker, f = x^2 / 2 about c: x - c shrinks by 1 - lr each round
    rows, _ = train(
        tmp_path,
        problem={"name": "quadratic", "dimension": 1},
        topology={"workers": 1},
        schedule={"name": "step", "milestones": [0.5], "factor": 0.5, "warmup_rounds": 1},
        train={"lr": 0.4, "rounds": 4, "record_every": 1},
    )
    shrunk = np.cumprod([1, 1 - 0.2, 1 - 0.4, 1 - 0.2, 1 - 0.2]) ** 2
    np.testing.assert_allclose([row["bias_sq"] for row in rows], rows[0]["bias_sq"] * shrunk, rtol=1e-12)
