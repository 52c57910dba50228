"""Training on adversarial examples: against plain torch, with two networks for two sets of statistics."""

import copy
import json
import statistics
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from command import but_wall_time, decentral, read_csv, write
from ranks import decentral as launch
from ranks import run_ranks
from torch import nn
from torch.nn.functional import cross_entropy

from decentral.comm.layout import Layout
from decentral.errors import UserError
from decentral.problems import CNN
from decentral.problems.adversarial import Adversarial
from decentral.problems.adversarial_objective import AdversarialObjective
from decentral.problems.attack import Attack
from decentral.problems.data.batches import EpochBatches
from decentral.problems.data.dataset import Scale
from decentral.problems.data.datasets import CIFAR10_MEAN, CIFAR10_STD
from decentral.problems.models.initialise import initialise
from decentral.problems.models.tried import Tried
from decentral.problems.models.worker_state import stacked_buffers
from decentral.problems.objective import Place
from decentral.runs.sections.adversarial import worker_ranks

LR, ROUNDS, N = 0.2, 5, 2
NETWORK = CNN(width=3)
PLACE = Place(N, range(N), 3, torch.float64, torch.device("cpu"), 40, 0.0, "loop", 300)
SETTINGS = Adversarial(eps=0.2, weight=0.7)


def objective(settings=SETTINGS, problem=NETWORK, **changes):
    return problem.build(replace(PLACE, adversarial=settings, **changes))


def gradient(found, x, t):
    g = torch.zeros_like(x)
    for columns, part in found.gradient(x, t):
        g[:, columns] = part
    return g


def trained(found, rounds=ROUNDS):
    """The models (h, d) of gradient descent, each worker by itself."""
    x = found.start().expand(len(found.place.rows), -1).clone()
    for t in range(rounds):
        x = x - LR * gradient(found, x, t)
    return x


# ----------------------------------------------------------------------------------------------- written in plain torch


@cache
def batch(worker, t, batch_size=40):
    """What a worker sees in round t: the next samples of its shard in the order that is drawn for it."""
    made = NETWORK.made(N, PLACE.seed)
    shard = torch.from_numpy(made.shards[worker])
    if batch_size != "full":
        drawn = EpochBatches([len(part) for part in made.shards], list(range(N)), batch_size, PLACE.seed)
        shard = shard[torch.from_numpy(drawn.at(t)[worker])]
    return made.dataset.train_x[shard].double(), made.dataset.train_y[shard]


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def by_hand(worker, settings, rounds=ROUNDS, batch_size=40):
    """(network, its twin with auxiliary statistics, the examples of each round) of one worker."""
    main = NETWORK.made(N, PLACE.seed).module.double().train()
    auxiliary, stale = copy.deepcopy(main), copy.deepcopy(main)
    seen = []
    for t in range(rounds):
        x, y = batch(worker, t, batch_size)
        attacked = copy.deepcopy(stale if settings.stale else main)  # a copy: its statistics are thrown away
        moving = x.clone().requires_grad_()
        cross_entropy(attacked(moving), y).backward()
        step = settings.eps if settings.step is None else settings.step
        move = (step * moving.grad.sign()).clamp(-settings.eps, settings.eps)
        seen.append((x + move).clamp(0, 1))
        stale = copy.deepcopy(main)
        loss = cross_entropy(main(x), y)
        of_examples = settings.weight * cross_entropy(auxiliary(seen[-1]), y)
        g = torch.autograd.grad(loss, list(main.parameters()))
        more = torch.autograd.grad(of_examples, list(auxiliary.parameters()))
        with torch.no_grad():
            for p, q, a, b in zip(main.parameters(), auxiliary.parameters(), g, more, strict=True):
                p -= LR * (a + b)
                q.copy_(p)
    return main, auxiliary, seen


@pytest.mark.parametrize("batch_size", [40, "full"])
@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, stale=0),
        replace(SETTINGS, step=0.05),
        replace(SETTINGS, step=0.5, weight=1.0),
    ],
    ids=["stale", "synchronous", "small step", "large step"],
)
def test_models_and_both_sets_of_statistics_are_those_of_plain_torch(settings, batch_size):
    rounds = ROUNDS if batch_size == 40 else 2
    found = objective(settings, batch_size=batch_size)
    x = trained(found, rounds)
    for worker in range(N):
        main, auxiliary, _ = by_hand(worker, settings, rounds, batch_size)
        torch.testing.assert_close(x[worker], flat(main), rtol=0, atol=1e-10)
        for name, value in main.named_buffers():
            torch.testing.assert_close(found.main[name][worker], value, rtol=0, atol=1e-10)
        for name, value in auxiliary.named_buffers():
            rows = found.buffers[f"auxiliary: {name}"]
            torch.testing.assert_close(rows[worker], value, rtol=0, atol=1e-10)
    means = [found.buffers[f"{which}1.running_mean"] for which in ("", "auxiliary: ")]
    assert (means[0] - means[1]).abs().max() > 1e-3  # two sets indeed


def test_a_worker_alone_goes_on_as_it_does_among_others():
    found = objective()
    x = trained(found, 2)
    one = found.alone(1)
    for t in (2, 3):
        g = gradient(found, x, t)
        assert torch.equal(gradient(one, x[1:].clone(), t), g[1:])
        x = x - LR * g
    assert all(torch.equal(rows[0], found.buffers[name][1]) for name, rows in one.buffers.items())


def test_examples_are_those_of_the_models_of_the_round_before_and_no_other():
    for stale in (0, 1):
        found = objective(replace(SETTINGS, stale=stale))
        x, models = found.start().expand(N, -1).clone(), []
        for t in range(4):
            models.append(x)
            g = gradient(found, x, t)
            against = models[max(0, t - stale)]
            expected = objective().examples(against, t)
            assert all(map(torch.equal, found._adversarial._examples, expected))
            if t:
                other = objective().examples(models[t - 1 + stale], t)
                assert not all(map(torch.equal, found._adversarial._examples, other))
            x = x - LR * g


# --------------------------------------------------------------------------------------------------------- the examples


class Cubic(nn.Module):
    """Logits from sums of cubes of (B, 3, 2, 2) inputs, so that the slope's sign is that of the weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(2, 12, dtype=torch.float64))

    def forward(self, x):
        return (x.flatten(1) ** 3) @ self.weight.T


@pytest.mark.parametrize("step", [None, 0.01, 0.3])
def test_an_example_is_one_signed_step_in_pixels_cut_to_the_ball_and_to_the_range(step):
    module = Cubic()
    layout = Layout.of(module)
    scale = Scale(CIFAR10_MEAN, CIFAR10_STD)
    torch.manual_seed(2)
    pixels = torch.rand(50, 3, 2, 2)
    pixels[0], pixels[1] = 0.0, 1.0
    inputs, labels = torch.from_numpy(scale.of(pixels.numpy())).double(), torch.randint(2, (50,))
    attack = Attack(module, layout, Adversarial(0.1, step), scale, inputs)
    made = attack.examples(layout.flatten(module), {}, inputs, labels)
    assert module.weight.grad is None
    moving = inputs.clone().requires_grad_()
    cross_entropy(module(moving), labels).backward()
    mean, std = (torch.tensor(c).double().view(3, 1, 1) for c in (CIFAR10_MEAN, CIFAR10_STD))
    expected = (inputs * std + mean + min(step or 0.1, 0.1) * moving.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(made * std + mean, expected, rtol=0, atol=1e-6)
    assert ((made - inputs).abs() * std).max() <= min(step or 0.1, 0.1) + 1e-9


def test_what_is_no_pixel_moves_in_its_own_unit_and_is_not_cut():
    module = Cubic()
    layout, inputs = Layout.of(module), torch.linspace(-1.5, 1.5, 24, dtype=torch.float64).view(2, 3, 2, 2)
    attack = Attack(module, layout, Adversarial(2.0), None, inputs)
    made = attack.examples(layout.flatten(module), {}, inputs, torch.tensor([0, 1]))
    torch.testing.assert_close((made - inputs).abs(), torch.full_like(inputs, 2.0), rtol=0, atol=1e-12)


class Dropping(nn.Module):
    """Draws in each training pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(nn.functional.dropout(x.flatten(1), 0.3, self.training))


def test_what_a_model_draws_has_a_stream_for_each_pass_wherever_its_worker_is():
    made = NETWORK.made(N, PLACE.seed)
    network = initialise(Dropping, 0)

    def of(rows):
        place = replace(PLACE, adversarial=replace(SETTINGS, stale=0), rows=rows)
        return AdversarialObjective(
            copy.deepcopy(network), made.dataset, made.shards, place, Tried(frozenset({"torch"}))
        )

    before = torch.get_rng_state()
    both, second = trained(of(range(2)), 3), trained(of(range(1, 2)), 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(both[1], second[0])
    torch.manual_seed(7)
    assert torch.equal(trained(of(range(2)), 3), both)


def test_an_attack_leaves_parameters_gradients_and_statistics_alone():
    found = objective()
    x = trained(found, 2)
    before = {name: rows.clone() for name, rows in found.buffers.items()}
    g = found._oracle.g.clone()
    found.examples(x, 2)
    assert before.keys() > dict(found.main).keys()
    assert all(torch.equal(before[name], rows) for name, rows in found.buffers.items())
    assert torch.equal(found._oracle.g, g)
    alone = stacked_buffers(NETWORK.made(N, PLACE.seed).module.double(), N)
    assert alone.keys() == found.main.keys()


# ----------------------------------------------------------------------------------------------------- degenerate cases


def test_without_weight_the_bits_are_those_of_samples_alone():
    plain, found = objective(None), objective(replace(SETTINGS, weight=0.0))
    assert not isinstance(plain, AdversarialObjective)
    assert torch.equal(trained(found), trained(plain))
    assert found.buffers.keys() == plain.buffers.keys()
    assert all(torch.equal(found.buffers[name], rows) for name, rows in plain.buffers.items())


@pytest.mark.parametrize("stale", [0, 1])
def test_examples_that_do_not_move_are_the_samples(stale):
    plain, found = objective(None), objective(replace(SETTINGS, eps=0.0, stale=stale, weight=0.5))
    x = plain.start().expand(N, -1).clone()
    for t in range(3):
        g, more = gradient(plain, x, t), gradient(found, x, t)
        torch.testing.assert_close(more, 1.5 * g, rtol=0, atol=1e-14)
        torch.testing.assert_close(found.losses, 1.5 * plain.losses, rtol=0, atol=1e-14)
        x = x - LR * g
    for name, rows in plain.buffers.items():
        assert torch.equal(found.main[name], rows)
        assert torch.equal(found.buffers[f"auxiliary: {name}"], rows)


# -------------------------------------------------------------------------------------------------------------- as runs

SMALL = {
    "problem": {"name": "cnn", "width": 2},
    "topology": {"name": "ring", "workers": 2},
    "algorithm": {"name": "dmsgd", "momentum": 0.5},
    "network": {"latency_s": 1e-4},
    "train": {"lr": 0.1, "rounds": 10, "batch_size": 16, "dtype": "float64", "record_every": 5, "checkpoint_every": 4},
    "adversarial": {"eps": 0.1},
}  # fmt: skip


def spans(folder):
    """(lane, kind, round, begin, end) of a run's timeline."""
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    lanes = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    return [
        (lanes[e["tid"]], e["cat"], int(e["name"].split()[-1]), e["ts"], e["ts"] + e["dur"])
        for e in events
        if e["ph"] == "X"
    ]


def overlap(found, attackers_from=2):
    """How much of the attackers' time their workers compute gradients beside it."""
    attacks, computed = ([s for s in found if s[1] == kind] for kind in ("attack", "compute"))
    both = [
        max(0, min(a[4], c[4]) - max(a[3], c[3]))
        for a in attacks
        for c in computed
        if int(a[0][-1]) - attackers_from == int(c[0][-1])
    ]
    return sum(both) / sum(a[4] - a[3] for a in attacks)


def by_settings(out):
    """(stale, attackers) -> folder, and rows without the columns of clocks."""
    found = {}
    for folder in sorted((out / "runs").iterdir()):
        table = tomllib.loads((folder / "config.toml").read_text())["adversarial"]
        rows = but_wall_time(read_csv(folder / "metrics.csv"))
        found[table["stale"], table["attackers"]] = folder, rows
    return found


CLOCK = {"simulated_s", "mpi_bytes_sent"}


def numbers(rows):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def test_attackers_change_a_run_s_clock_and_nothing_else(home):
    grid = {"adversarial": {"stale": [0, 1], "attackers": [False, True]}}
    figure = {"name": "examples", "y": "adversarial_accuracy"}  # refused if the column were not foreseen
    write(Path("x.toml"), **SMALL, sweep=grid, figure=[figure])
    assert decentral("run", "x.toml", "--out", "out").code == 0
    found = by_settings(Path("out"))
    for stale in (0, 1):
        assert numbers(found[stale, False][1]) == numbers(found[stale, True][1])
    last = found[1, True][1][-1]
    assert found[0, True][1][-1]["train_loss"] != last["train_loss"]
    assert 0 < float(last["adversarial_accuracy"]) < float(last["test_accuracy"])
    seconds = {key: float(rows[-1]["simulated_s"]) for key, (_, rows) in found.items()}
    assert seconds[0, False] == seconds[0, True] == pytest.approx(seconds[1, False])
    ahead, synchronous = spans(found[1, True][0]), spans(found[0, True][0])
    assert overlap(ahead) == pytest.approx(1.0)
    assert overlap(synchronous) == pytest.approx(0.0, abs=1e-9)
    attack = statistics.fmean(e - b for _, kind, _, b, e in synchronous if kind == "attack") / 1e6
    # nine rounds hide an attack; the first has to wait for its own
    assert seconds[0, True] - seconds[1, True] == pytest.approx(9 * attack)
    assert attack / statistics.fmean(e - b for _, kind, _, b, e in ahead if kind == "compute") * 1e6 < 0.5
    alone = spans(found[1, False][0])
    assert {lane for lane, *_ in alone} == {"worker 0", "worker 1"}
    begins = {(lane, t): b for lane, kind, t, b, _ in ahead if kind == "compute"}
    for lane, kind, t, begin, _ in ahead:
        if kind == "attack" and t > 1:  # on the models that the round before begins with
            assert begin == pytest.approx(begins[f"rank {int(lane[-1]) - 2}", t - 1])


STOPPED = """
import os, signal
from decentral.cli import main
from decentral.runs.journal import Journal
moved = Journal.moved
def sent(journal, done):
    moved(journal, done)
    if done == 5 and journal.folder is not None:
        os.kill(os.getpid(), signal.SIGUSR1)
Journal.moved = sent
main()
"""


@pytest.mark.mpi
@pytest.mark.alone
def test_on_two_ranks_attacks_go_on_beside_gradients_of_the_same_numbers(home):
    changes = {
        "topology": {"name": "complete", "workers": 1},
        "train": {**SMALL["train"], "batch_size": 256},
        "adversarial": {"eps": 0.1, "attackers": True},
        "sweep": {"adversarial": {"stale": [0, 1]}},
    }
    write(Path("x.toml"), **SMALL | changes)
    assert decentral("run", "x.toml", "--out", "one").code == 0
    done = launch("run", "x.toml", "--out", "two", ranks=2, drawn=False, cwd=home)
    assert done.returncode == 0, done.stderr
    whole, found = by_settings(Path("one")), by_settings(Path("two"))
    for key, (_, rows) in found.items():
        assert numbers(rows) == numbers(whole[key][1])
        assert int(rows[-1]["mpi_bytes_sent"]) > 0
    shares = {}
    for (stale, _), (folder, _) in found.items():
        shown = spans(folder)
        assert {kind for lane, kind, *_ in shown if lane == "rank 1"} == {"attack"}
        assert {kind for lane, kind, *_ in shown if lane == "rank 0"} == {"compute", "update", "send", "wait"}
        shares[stale] = overlap(shown, attackers_from=1)
    assert shares[0] < 0.3  # clocks of ranks are compared to some milliseconds
    assert shares[1] > 0.5


@pytest.mark.mpi
def test_a_signal_ends_pairs_with_a_checkpoint_that_one_process_goes_on_from(home):
    file = write(Path("x.toml"), **SMALL | {"adversarial": {"eps": 0.1, "attackers": True}})
    assert decentral("run", file, "--out", "whole").code == 0
    done = run_ranks(4, "-c", STOPPED, "run", file, "--out", "out", cwd=home)
    assert done.returncode == 138, done.stderr
    assert "ended by SIGUSR1 of rank 0; the same command with --resume goes on" in done.stderr
    (run,), (other,) = Path("out", "runs").iterdir(), Path("whole", "runs").iterdir()
    kept = torch.load(run / "checkpoint.pt")
    assert 5 < kept["t"] < 10
    assert kept["buffers"]["stale models"].shape == kept["x"].shape
    assert not torch.equal(kept["buffers"]["stale models"], kept["x"])
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    found, expected = (but_wall_time(read_csv(folder / "metrics.csv")) for folder in (run, other))
    assert numbers(found) == numbers(expected)


# ---------------------------------------------------------------------------------------------------- what is refused


class Remembering(nn.Module):
    """Its passes depend on the one before, by a buffer."""

    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(shape[1] * shape[2], classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return self.layer(x.flatten(1)) * self.seen


class Deaf(nn.Module):
    """Looks at its inputs without a gradient."""

    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(shape[1] * shape[2], classes)

    def forward(self, x):
        return self.layer(x.detach().flatten(1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"problem": {"name": "quadratic", "dimension": 3}},
            "problem.name = 'quadratic' are not, or there are none",
        ),
        ({"problem": {"name": "transformer"}}, "problem.name = 'transformer' are not"),
        ({"problem": {"name": "module", "factory": "test_adversarial:Deaf"}}, "lets none through to them"),
        (
            {
                "problem": {"name": "module", "factory": "test_adversarial:Remembering"},
                "adversarial": {"eps": 0.1, "attackers": True},
            },
            "which have not the model's buffer 'seen'; set it to false",
        ),
        (
            {"problem": {"name": "logistic-regression", "optimum": True}}
            | {"train": {**SMALL["train"], "weight_decay": 0.1}},
            "problem.optimum = true is of samples alone",
        ),
        ({"adversarial": {"eps": -0.1}}, "adversarial.eps = -0.1 must be finite and not negative"),
        ({"adversarial": {"eps": 0.1, "weight": -1.0}}, "adversarial.weight = -1.0 must be finite"),
        ({"adversarial": {"eps": 0.1, "step": float("inf")}}, "adversarial.step = inf must be finite"),
        ({"adversarial": {"eps": 0.1, "stale": 2}}, "adversarial.stale"),
        ({"adversarial": {"step": 0.1}}, "adversarial.eps"),
        ({"train": {**SMALL["train"], "oracle": "batched"}}, 'set it to "auto" or "loop"'),
        (
            {"adversarial": {"eps": 0.1, "attackers": True}, "train": {**SMALL["train"], "compile": True}},
            "does not go with train.compile = true",
        ),
        (
            {
                "adversarial": {"eps": 0.1, "attackers": True},
                "faults": {"absent_workers": [1], "leave_round": 2, "return_round": 4},
            },
            "that faults.absent_workers takes away",
        ),
        ({"algorithm": {"name": "ad-psgd"}}, "section [adversarial] has no meaning where there is"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:20],
)
def test_what_cannot_be_is_refused_in_one_line(home, changes, words):
    said = decentral("run", write(Path("x.toml"), **SMALL | changes), "--out", "out")
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1
    assert len(said.err) < 300
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("ranks", "hosting"), [(1, 1), (2, 1), (4, 2), (8, 4), (3, None), (6, None), (16, None)]
)
def test_half_of_the_ranks_host_workers(ranks, hosting):
    assert worker_ranks(None, 4, ranks) == worker_ranks(SETTINGS, 4, ranks) == ranks
    settings = replace(SETTINGS, attackers=True)
    if hosting is not None:
        assert worker_ranks(settings, 4, ranks) == hosting
        return
    with pytest.raises(UserError, match=f"{ranks} ranks do not go with 4 workers; launch 2 or 4 or 8 ranks"):
        worker_ranks(settings, 4, ranks)
