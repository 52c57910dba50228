"""Schedules that know their run: in runs of all kinds, resumed, on ranks, and where they do not fit."""

import json
import math

import numpy as np
import pytest
import ranks
from command import but_wall_time, decentral, experiment, metrics, write

from decentral.optimizers import autowu
from decentral.problems.objective import Place
from decentral.runs.divergence import Losses
from decentral.runs.kinds import run_of
from decentral.runs.reading import resolved

DIGITS = 1437  # training samples
TRAIN = {"lr": 0.05, "rounds": 6, "batch_size": 32, "record_every": 2, "dtype": "float64", "eval_samples": 50}
MLP = {"name": "mlp", "hidden": [4, 4]}
NO_WORKERS = {"topology": None, "algorithm": None}
NODES = {**NO_WORKERS, "dataflow": {"runtime": "synchronous", "minibatch": 2}}
KINDS = {
    "rounds": {},
    "asynchronous": {"algorithm": {"name": "ad-psgd"}},
    "stages": {**NO_WORKERS, "stages": {"count": 2}, "program": {"name": "local"}},
    "nodes": {**NODES, "train": {**TRAIN, "rounds": 2}},
}
BATCH = {"rounds": 128, "asynchronous": 128, "stages": 32, "nodes": 64}
"""Samples of a step: four workers' 32; one worker's; two instances of 32."""

AUTOWU = {
    "problem": {"name": "mlp", "hidden": [8]},
    "schedule": {"name": "autowu", "lr_min": 0.05, "cooldown": "constant-then-cosine"},
    "train": {
        "lr": 200.0, "rounds": 120, "batch_size": 64, "record_every": 30, "checkpoint_every": 25, "eval_samples": 50,
    },
}  # fmt: skip


def table(kind, **schedule):
    changes = {"problem": MLP, "train": TRAIN, **KINDS[kind], **({"schedule": schedule} if schedule else {})}
    given = {k: v for k, v in experiment(**changes).items() if v is not None}
    return {"name": "small", "seeds": [0], **given}


def write_table(path, given):
    import tomli_w

    path.write_text(tomli_w.dumps(given))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_knows_its_batch_and_its_epochs(home, kind):
    base = BATCH[kind] // 4
    legew = table(kind, name="legew", base_batch=base, base_warmup_epochs=0.0, decay="cosine")
    plain = table(kind, name="cosine")
    plain["train"] = {**plain["train"], "lr": 2 * plain["train"]["lr"]}  # sqrt(4)
    folders = []
    for given in (legew, plain):
        folders.append(home / given["schedule"]["name"])
        said = decentral("run", write_table(home / "x.toml", given), "--out", folders[-1])
        assert said.code == 0, said.err
    one, other = (but_wall_time(next(iter(metrics(folder).values()))) for folder in folders)
    assert one == other


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_of_an_epoch_are_those_of_the_epoch_column(kind):
    warm = 0.6 if kind == "nodes" else 0.1
    run = run_of(table(kind, name="legew", base_batch=BATCH[kind], base_warmup_epochs=warm))
    rounds = warm * (1 if kind == "nodes" else DIGITS / BATCH[kind])
    expected = [0.05 * min(1.0, (t + 1) / (rounds + 1)) for t in range(run.train.rounds)]
    np.testing.assert_allclose([run.lr(t) for t in range(run.train.rounds)], expected, rtol=1e-12)
    assert resolved(run)["schedule"]["decay"] == {"name": "constant", "warmup_rounds": 0}
    assert resolved(run_of(resolved(run))) == resolved(run)


@pytest.mark.parametrize("batch_size", [16, "full"])
@pytest.mark.parametrize(
    "problem", [{"name": "logistic-regression"}, {"name": "lstm", "width": 4}, {"name": "linear-regression"}]
)
def test_facts_are_those_of_the_objective(problem, batch_size):
    import torch

    given = experiment(problem=problem, train={"batch_size": batch_size}, schedule={"name": "legew"})
    given["schedule"] |= {"base_batch": 4, "base_warmup_epochs": 0.0}
    run = run_of({"seeds": [0], **given})
    place = Place(4, range(4), 0, torch.float32, torch.device("cpu"), batch_size, 0.0, "loop", 10)
    objective = run.problem.build(place)
    assert float(1 / run.facts().epoch_rounds) == objective.epoch(1)
    assert run.facts().batch == objective.samples(1)


REFUSED = {
    "a warm-up that is longer than the run": (
        "rounds", {"name": "legew", "base_batch": 8, "base_warmup_epochs": 0.05},
        "a warm-up of 0.8 epochs (8.98125 rounds of 128 samples) does not fit into the run's 0.534447 epochs "
        "(train.rounds = 6)",
    ),
    "and in stages": ("stages", {"name": "linear-scaling", "base_batch": 8}, "a warm-up of 5 epochs"),
    "and without rounds": ("asynchronous", {"name": "linear-scaling", "base_batch": 8}, "a warm-up of 5 epochs"),
    "and in nodes": ("nodes", {"name": "linear-scaling", "base_batch": 8}, "a warm-up of 5 epochs (5 rounds of 64"),
    "losses that stages do not tell": ("stages", {"name": "autowu"}, "only rounds of workers tell"),
    "losses that nodes do not tell": ("nodes", {"name": "autowu"}, "only rounds of workers tell"),
    "losses without rounds": ("asynchronous", {"name": "autowu"}, "only rounds of workers tell"),
    "a rate that grows to less": ("rounds", {"name": "autowu", "lr_min": 0.05}, "must be below train.lr = 0.05"),
    "a share beyond all": ("rounds", {"name": "autowu", "rho": 1.0}, "rho = 1.0 must be in (0, 1)"),
    "no first rate": ("rounds", {"name": "autowu", "lr_min": 0.0}, "lr_min = 0.0 must be positive"),
    "no cooldown": ("rounds", {"name": "autowu", "cooldown": "linear"}, "schedule.cooldown = 'linear'"),
    "no batch": ("rounds", {"name": "legew", "base_warmup_epochs": 1.0}, "missing key schedule.base_batch"),
    "an empty batch": (
        "rounds", {"name": "legew", "base_batch": 0, "base_warmup_epochs": 1.0}, "base_batch = 0 must be at least 1",
    ),
    "a warm-up of less than nothing": (
        "rounds", {"name": "linear-scaling", "base_batch": 8, "warmup_epochs": -1.0}, "warmup_epochs = -1.0",
    ),
    "an endless warm-up": (
        "rounds", {"name": "linear-scaling", "base_batch": 8, "warmup_epochs": math.inf}, "must be a finite number",
    ),
    "a decay of no name": (
        "rounds", {"name": "linear-scaling", "base_batch": 8, "decay": "cosin"},
        "schedule.decay.name = 'cosin' is not known; did you mean 'cosine'?",
    ),
    "a decay that scales too": (
        "rounds", {"name": "linear-scaling", "base_batch": 8, "decay": "legew"}, "schedule.decay.name = 'legew'",
    ),
    "an unknown key of a decay": (
        "rounds", {"name": "linear-scaling", "base_batch": 8, "decay": {"name": "step", "factr": 0.1}},
        "unknown key schedule.decay.factr of step; did you mean 'factor'?",
    ),
    "two warm-ups": (
        "rounds", {"name": "linear-scaling", "base_batch": 8, "decay": {"name": "step", "warmup_rounds": 3}},
        "decay.warmup_rounds has no meaning beside warmup_epochs",
    ),
    "a power of nothing": ("rounds", {"name": "polynomial", "power": 0.0}, "power = 0.0 must be positive"),
    "an end above the start": ("rounds", {"name": "polynomial", "final": 2.0}, "final = 2.0 must be in [0, 1]"),
}  # fmt: skip


def refused(home, given, words):
    said = decentral("run", write_table(home / "x.toml", given), "--out", "out")
    assert said.code == 2, said.err
    assert len(said.err.splitlines()) == 1
    assert len(said.err) < 300
    assert words in said.err
    assert not (home / "out").exists()


@pytest.mark.parametrize("case", REFUSED)
def test_a_schedule_that_does_not_fit_is_refused(home, case):
    kind, schedule, words = REFUSED[case]
    refused(home, table(kind, **schedule), words)


def test_without_a_data_set_there_is_no_epoch(home):
    for schedule in ({"name": "legew", "base_batch": 8, "base_warmup_epochs": 1.0}, {"name": "autowu"}):
        refused(home, experiment(schedule=schedule), "the problem has no data set")


def test_updates_that_are_counted_in_messages_are_of_no_batch(home):
    given = table("nodes", name="legew", base_batch=8, base_warmup_epochs=0.0)
    refused(home, {**given, "dataflow": {}}, 'set dataflow.unit = "instances"')
    run = run_of({**given, "dataflow": {"unit": "instances", "min_update_frequency": 4}})
    assert run.lr(0) == pytest.approx(0.05 * math.sqrt(4 * 32 / 8))


def test_the_highest_rate_of_a_scaled_schedule_decides_what_is_stable(home):
    changes = {
        "problem": {"name": "linear-regression", "dimension": 3}, "algorithm": {"name": "pmsgd", "momentum": 0.0},
        "train": {"lr": 0.5, "batch_size": "full"},
    }  # fmt: skip
    scaled = experiment(**changes, schedule={"name": "legew", "base_batch": 2, "base_warmup_epochs": 0.0})
    refused(home, scaled, "lr * L = ")
    assert decentral("run", write(home / "x.toml", **changes), "--out", "out").code == 0


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A run of AutoWU: (file, its folder, its losses in the mean, those that were tested)."""
    home = tmp_path_factory.mktemp("autowu")
    file, means, tested = write(home / "x.toml", **AUTOWU), [], []
    note, test = Losses.note, autowu.past_minimum

    def noted(self, losses):
        means.append(float(losses.double().mean()))
        note(self, losses)

    def tests(losses, rng):
        tested.append(losses)
        return test(losses, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("decentral.runs.run._show", lambda folder: None)
        patch.setattr(Losses, "note", noted)
        patch.setattr(autowu, "past_minimum", tests)
        assert decentral("run", file, "--out", home / "whole").code == 0
    return file, home / "whole", means, tested


def decision(folder):
    (path,) = (folder / "runs").glob("*/schedule.json")
    return json.loads(path.read_text())


def test_each_epoch_all_losses_so_far_are_tested_in_the_mean_of_the_workers(adapted):
    _, folder, means, tested = adapted
    told = decision(folder)
    ends = [math.ceil(i * DIGITS / 256) for i in range(1, 12)]
    assert [len(losses) for losses in tested] == [t for t in ends if t <= told["round"]]
    for losses in tested:
        np.testing.assert_allclose(losses, means[: len(losses)], rtol=1e-12)
    assert told["why"] == "the loss has passed its minimum"
    assert told["lr_after"] < told["lr_before"] == pytest.approx(0.05 * 4000 ** (told["round"] / 60))


def test_the_records_tell_the_rate(adapted):
    _, folder, _, _ = adapted
    told = decision(folder)
    (rows,) = metrics(folder).values()
    rates = {int(row["round"]): float(row["lr"]) for row in rows}
    assert rates[0] == 0.05
    assert rates[30] == pytest.approx(0.05 * 4000 ** (29 / 60))
    assert told["round"] < 60
    assert rates[60] == rates[90] == told["lr_after"]
    assert rates[120] == pytest.approx(told["lr_after"] * (1 + math.cos(math.pi * 23 / 24)) / 2)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_run_that_adapts_goes_on_to_the_same_bits(home, adapted, rows):
    from decentral.runs.folder import RunFolder

    file, folder, _, _ = adapted
    append, left = RunFolder.append, [rows]

    def cut(self, row):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(self, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "append", cut)
        assert decentral("run", file, "--out", "out").code == 130
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    for name, rows_ in metrics(folder).items():
        assert but_wall_time(rows_) == but_wall_time(metrics(home / "out")[name])
    assert decision(home / "out") == decision(folder)


@pytest.mark.mpi
def test_ranks_decide_alike(tmp_path, adapted):
    file, folder, _, _ = adapted
    done = ranks.decentral("run", file, "--out", tmp_path / "out", ranks=2, drawn=False)
    assert done.returncode == 0, done.stderr
    assert decision(tmp_path / "out") == decision(folder)
    ((name, rows),) = metrics(folder).items()
    for row, other in zip(rows, metrics(tmp_path / "out")[name], strict=True):
        for key in row.keys() - {"wall_s", "mpi_bytes_sent"}:
            assert row[key] == other[key], key
