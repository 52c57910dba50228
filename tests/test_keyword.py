"""Keyword spotting: the detector, its loss and errors, the network, gradients, and whole runs on ranks."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import tomli_w
import torch
from command import decentral, read_csv
from ranks import decentral as in_ranks
from torch.nn import functional

from decentral.errors import UserError
from decentral.problems.data import load_speech
from decentral.problems.data.segments import segments_of
from decentral.problems.detection import Detector, EndMetric, Errors
from decentral.problems.keyword import Keyword
from decentral.problems.models.decoder import Chain
from decentral.problems.models.frames import Neighbours, frame_network
from decentral.problems.objective import Place
from decentral.report.detection import read_curve

SMALL = Keyword(phonemes=1, context=1, hidden=(5, 4))


def place(workers=3, **changes):
    here = {
        "rows": range(workers), "seed": 5, "dtype": torch.float64, "device": torch.device("cpu"), "batch_size": 6,
        "weight_decay": 0.0, "oracle": "loop", "eval_samples": 50,
    }  # fmt: skip
    return Place(workers=workers, **(here | changes))


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- the detector

DETECTOR = Detector(Chain(3, 0.6), (-3.0, -3.5, -4.0, -0.5, -1.0), 0.2)


def keyword_paths(e, log_stay, log_move):
    """(score, duration, end) of all paths through the three states of e (T, 3), a list of lists."""
    for start, length in itertools.product(range(len(e)), range(3, len(e) + 1)):
        for one, two in itertools.combinations(range(1, length), 2):
            if start + length <= len(e):
                path = [0] * one + [1] * (two - one) + [2] * (length - two)
                score = sum(e[start + k][s] for k, s in enumerate(path))
                yield score + 2 * log_move + (length - 3) * log_stay, length, start + length - 1


def score_by_force(logits, detector):
    """The keyword's best path less the background's, over its duration; the largest of all ends."""
    prior = detector.log_prior
    e = [[z[s] - prior[s] - max(z[3] - prior[3], z[4] - prior[4]) for s in range(3)] for z in logits.tolist()]
    best = {}
    for score, length, end in keyword_paths(e, math.log(0.6), math.log(0.4)):
        best[end] = max(best.get(end, (-math.inf, 0)), (score, length))
    return max(score / length for score, length in best.values())


def test_detection_scores_are_the_best_paths_over_their_durations():
    logits = random(4, 7, 5)
    found = DETECTOR.scores(logits)
    wanted = [score_by_force(one, DETECTOR) for one in logits]
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    shifted = DETECTOR.scores(logits + random(4, 7, 1, seed=1))  # log softmax is such a shift
    torch.testing.assert_close(shifted, found, atol=1e-10, rtol=0)


def test_soft_scores_tend_to_hard_ones():
    logits = random(4, 7, 5)
    soft = [replace(DETECTOR, chain=Chain(3, 0.6, tau)).scores(logits) for tau in (0.5, 0.1, 1e-4)]
    gaps = [float((s - DETECTOR.scores(logits)).abs().max()) for s in soft]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3


def test_the_detector_counts_the_training_part():
    dataset = segments_of(load_speech(), 0, 3)
    found = Detector.of(dataset, 0.0)
    y = dataset.train_y.tolist()
    said = [row for row in y if any(c < 3 for c in row)]
    assert found.share == pytest.approx(len(said) / len(y))
    frames = sum(c < 3 for row in said for c in row) / len(said) / 3
    assert found.chain.stay == pytest.approx(1 - 1 / frames)
    total = sum(map(len, y)) + 5
    for c in range(5):
        count = sum(row.count(c) for row in y) + 1
        assert found.log_prior[c] == pytest.approx(math.log(count / total))
    test = [any(c < 3 for c in row) for row in dataset.test_y.tolist()]
    assert found.said(dataset.test_y).tolist() == test


@pytest.mark.parametrize("tau", [0.0, 0.4])
def test_the_end_metric_and_its_gradient_are_those_of_plain_torch(tau):
    detector = replace(DETECTOR, chain=Chain(3, 0.6, tau))
    loss = EndMetric(detector, 0.7)
    logits, labels = random(5, 7, 5).requires_grad_(), torch.full((5, 7), 4)
    labels[1, 2:6], labels[3, 1:5] = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 2])
    wanted = plain_end_metric(logits, labels, detector, 0.7)
    found = loss(logits, labels)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-10)
    assert found.item() > 0.1
    one, other = (torch.autograd.grad(f, logits)[0] for f in (found, wanted))
    torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    each = loss(logits, labels, reduction="none")
    assert each.shape == (35,)
    assert each.mean().item() == pytest.approx(found.item(), abs=1e-10)


def plain_end_metric(logits, labels, detector, margin):
    """By a loop over frames and states that autograd follows; durations are those of paths, without a gradient."""
    tau, prior = detector.chain.temperature, torch.tensor(detector.log_prior, dtype=torch.float64)
    log_stay, log_move = math.log(0.6), math.log(0.4)
    level = logits - prior
    background = tau * (level[..., 3:] / tau).logsumexp(-1) if tau else level[..., 3:].max(-1).values
    losses = []
    for b, (z, y) in enumerate(zip(level, labels, strict=True)):
        delta, length, scores = [torch.tensor(-1e20)] * 3, [0.0] * 3, []
        for t in range(len(z)):
            came = [torch.tensor(0.0), *(d + log_move for d in delta[:-1])]
            stay = [d + log_stay for d in delta]
            both = [torch.stack((a, c)) for a, c in zip(stay, came, strict=True)]
            best = [tau * (p / tau).logsumexp(0) if tau else p.max() for p in both]
            moved = [float((p / tau).softmax(0)[1].detach()) if tau else float(p[1] > p[0]) for p in both]
            before = [0.0, *length[:-1]]
            length = [1 + (1 - m) * a + m * c for m, a, c in zip(moved, length, before, strict=True)]
            delta = [d + z[t, s] - background[b, t] for s, d in enumerate(best)]
            if t >= 2:
                scores.append(delta[2] / length[2])
        score = torch.stack(scores).max()
        said, p = bool((y < 3).any()), detector.share
        losses.append((margin - score).relu() / (2 * p) if said else (margin + score).relu() / (2 - 2 * p))
    return torch.stack(losses).mean()


# ------------------------------------------------------------------------------------------------- its errors


def test_errors_of_thresholds_are_counted():
    said, other = np.array([5.0, 3.0, 3.0, 1.0]), np.array([4.0, 2.0, 2.0, 0.0, -1.0])
    errors = Errors(said, other, 0.5)
    alarms, rejected = errors.curve
    assert alarms.tolist() == [0, 2, 4, 6, 8, 10]
    for k, share in enumerate(
        rejected
    ):  # the lowest threshold, among scores and below them, with k alarms at most
        fits = [x for x in [*other, *said, -9.0] if (other > x).sum() <= k]
        assert share == min((said <= x).mean() for x in fits)
    assert errors.rejects_at(1.9) == rejected[0] == 0.75
    assert errors.rejects_at(2) == 0.25
    assert errors.rejects_at(1e9) == 0
    assert errors.equal() == pytest.approx((0.2 + 0.25) / 2)


# ------------------------------------------------------------------------------------------------- the network


def test_frames_see_their_neighbours():
    x = random(2, 5, 3)
    found = Neighbours(2)(x)
    for b, t in itertools.product(range(2), range(5)):
        around = [x[b, u] if 0 <= u < 5 else torch.zeros(3, dtype=x.dtype) for u in range(t - 2, t + 3)]
        assert torch.equal(found[b, t], torch.cat(around))
    network = frame_network(3, 2, (7, 6), 4)
    assert sum(p.numel() for p in network.parameters()) == (15 * 7 + 7) + (7 * 6 + 6) + (6 * 4 + 4)
    assert network(x.float()).shape == (2, 5, 4)
    assert len(network.layers) == 2


# ------------------------------------------------------------------------------------------------- the objective


def models(objective, h=3):
    return objective.start() + 0.1 * random(h, objective.d)


def gradient(objective, x, t):
    g = torch.empty_like(x)
    for columns, block in objective.gradient(x, t):
        g[:, columns] = block
    return g


@pytest.mark.parametrize("objective", ["cross-entropy", "end-metric"])
def test_gradients_are_those_of_plain_torch_and_both_oracles_agree(objective):
    problem = replace(SMALL, objective=objective, margin=2.0)
    built = problem.build(place())
    x = models(built)
    found, losses = gradient(built, x, 3), built.losses
    made = problem.made(3, 5)
    detector = problem.detector(made.dataset)
    for row in range(3):
        chosen = made.shards[row][built.batches.at(3)[row]]
        inputs, labels = made.dataset.train_x[chosen].double(), made.dataset.train_y[chosen]
        model = problem.model(made.dataset, 5).double()
        torch.nn.utils.vector_to_parameters(x[row].clone(), model.parameters())
        logits = model(inputs)
        if objective == "cross-entropy":
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        else:
            loss = EndMetric(detector, 2.0)(logits, labels)
        wanted = torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])
        assert losses[row].item() == pytest.approx(loss.item(), rel=1e-12)
        torch.testing.assert_close(found[row], wanted, atol=1e-12, rtol=1e-9)
    batched = problem.build(place(oracle="batched"))
    assert batched.oracle == "batched"
    torch.testing.assert_close(gradient(batched, x, 3), found, atol=1e-12, rtol=1e-9)


def test_the_end_metric_begins_with_cross_entropy():
    ended = replace(SMALL, objective="end-metric")
    mixed = replace(ended, cross_entropy_rounds=2).build(place())
    only = {2: ended.build(place()), 1: SMALL.build(place())}
    x = models(mixed)
    for t, other in only.items():
        assert torch.equal(gradient(mixed, x, t), gradient(other, x, t))
        assert torch.equal(mixed.losses, other.losses)
        alone, one = mixed.alone(1), other.alone(1)
        assert torch.equal(gradient(alone, x[1:2], t), gradient(one, x[1:2], t))
        redrawn, again = mixed.redrawn(4, of_all=True), other.redrawn(4, of_all=True)
        assert torch.equal(gradient(redrawn, x, t), gradient(again, x, t))
    assert not torch.equal(gradient(mixed, x, 1), gradient(mixed, x, 2))
    lone, x = replace(ended, cross_entropy_rounds=2).build(place(1)), x[:1].clone()
    first = gradient(lone, x, 1)
    assert torch.equal(gradient(lone, x, 2), gradient(ended.build(place(1)), x, 2))  # where x has not moved
    assert torch.equal(gradient(lone, x, 1), first)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"phonemes": 0}, "phonemes = 0 must be positive"),
        ({"hidden": ()}, "layers = 0"),
        ({"hidden": (4, 0)}, "hidden = 0 must be positive"),
        ({"keyword": -1}, "keyword = -1 must not be negative"),
        ({"context": -1}, "context = -1 must not be negative"),
        ({"temperature": -0.1}, "temperature = -0.1 must not be negative"),
        ({"margin": 0.0}, "margin = 0.0 must be positive"),
        ({"false_alarms_per_hour": 0.0}, "false_alarms_per_hour = 0.0 must be positive"),
        ({"cross_entropy_rounds": 5}, 'begins the end metric; set problem.objective = "end-metric"'),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason.replace("[", r"\[")):
        Keyword(**changes)


def test_more_states_than_frames_are_refused():
    with pytest.raises(UserError, match="phonemes gives 300 states, and the keyword has 39 frames at most"):
        Keyword(phonemes=100).prepare(2, 0)


def test_a_rate_below_one_false_alarm_is_told():
    notes = replace(SMALL, false_alarms_per_hour=0.5).build(place()).notes
    assert [n for n in notes if "hours without the keyword" in n]
    assert not SMALL.build(place()).notes


# ------------------------------------------------------------------------------------------------- whole runs

ROUNDS = {
    "problem": {
        "name": "keyword", "phonemes": 1, "context": 1, "hidden": [6, 5], "partition": "speaker",
        "objective": "end-metric", "cross_entropy_rounds": 2,
    },
    "topology": {"name": "ring", "workers": 4},
    "train": {
        "lr": 0.05, "rounds": 4, "batch_size": 4, "dtype": "float64", "oracle": "loop", "record_every": 2,
        "eval_samples": 100,
    },
    "optimizer": {"name": "lamb"},
    "sweep": {"algorithm": [{"name": "pmsgd"}, {"name": "decentlam"}]},
}  # fmt: skip
STAGES = {
    "problem": {"name": "keyword", "phonemes": 1, "context": 1, "hidden": [6, 5], "temperature": 0.2},
    "topology": {"name": "ring", "workers": 2},
    "algorithm": {"name": "decentlam"},
    "stages": {"count": 2},
    "program": {"name": "local", "head": "token-softmax"},
    "train": {
        "lr": 0.05, "rounds": 2, "batch_size": 4, "dtype": "float64", "record_every": 1, "eval_samples": 100,
    },
    "sweep": {"problem": [{"objective": "cross-entropy"}, {"objective": "end-metric"}]},
}  # fmt: skip
OWN = {"wall_s", "mpi_bytes_sent", "simulated_s", "occupancy"}


def rows(folder):
    """Of each run by its name: its rows without what is a world's own, and the curve."""
    found = {}
    for path in sorted((folder / "runs").iterdir()):
        read = [{k: v for k, v in row.items() if k not in OWN} for row in read_csv(path / "metrics.csv")]
        found[path.name] = read, (path / "detection.csv").read_text()
    return found


@pytest.mark.mpi
@pytest.mark.parametrize(("table", "worlds"), [(ROUNDS, (2, 4)), (STAGES, (4,))], ids=["rounds", "stages"])
def test_runs_have_the_same_digits_and_bytes_on_ranks(home, table, worlds):
    (home / "x.toml").write_text(tomli_w.dumps(table))
    assert decentral("run", "x.toml", "--out", "out1").code == 0
    alone = rows(home / "out1")
    assert len(alone) == len(next(iter(table["sweep"].values())))
    for ranks in worlds:
        done = in_ranks("run", "x.toml", "--out", f"out{ranks}", ranks=ranks, drawn=False, cwd=home)
        assert done.returncode == 0, done.stderr
        assert rows(home / f"out{ranks}") == alone
    ledger = {float(row["bytes_sent_mean"]) for found, _ in alone.values() for row in found[-1:]}
    if (
        table is ROUNDS
    ):  # two vectors to neighbours, or twice (n - 1) / n of one; four rounds, eight bytes a number
        d = (3 * 20 * 6 + 6) + (6 * 5 + 5) + (5 * 5 + 5)
        assert ledger == {4 * 8 * d * 2.0, 4 * 8 * d * 1.5}


def test_the_last_row_is_told_by_the_curve(home):
    table = ROUNDS | {"sweep": {"algorithm": [{"name": "dmsgd"}]}}
    (home / "x.toml").write_text(tomli_w.dumps(table))
    assert decentral("run", "x.toml", "--out", "out").code == 0
    (run,) = (home / "out" / "runs").iterdir()
    last = read_csv(run / "metrics.csv")[-1]
    alarms, missed = read_curve(run / "detection.csv")
    allowed = missed[alarms <= 60.0]
    assert float(last["false_reject_rate"]) == allowed[-1]
    assert missed[0] <= 1
    assert missed[-1] == 0
    assert (np.diff(alarms) > 0).all()
    assert (np.diff(missed) < 0).all()


def test_stages_have_no_first_rounds(home):
    (home / "x.toml").write_text(tomli_w.dumps(STAGES))
    done = decentral(
        "run", "x.toml", "--set", "problem.cross_entropy_rounds=2", "--set", "problem.objective=end-metric",
        "--out", "out",
    )  # fmt: skip
    assert done.code == 2
    assert "stages have one loss for all steps" in done.err
    assert not (home / "out").exists()
