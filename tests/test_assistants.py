"""What an Assistant computes and which samples it lets through, against loops and torch's own derivatives."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from torch.nn import functional

from decentral.optimizers import SCHEDULES
from decentral.problems.assistants import ASSISTANTS
from decentral.problems.assistants.assistant import Batch
from decentral.problems.assistants.running_mean import RunningMean
from decentral.problems.assistants.scanning import Scan
from decentral.problems.data.batches import EpochBatches
from decentral.runs.assisted.boss import BATCHES, REPORTS
from decentral.runs.assisted.feeder import Feeder
from decentral.runtime import Compute, Recv, Send, VirtualClock
from topologies.streams import stream


def logistic(x, y, classes=3, **settings):
    return ASSISTANTS["logistic"](**settings).chooser(x, y, classes, seed=4)


def test_what_is_sure_to_be_easy_is_kept_with_the_base_probability():
    logit = [-1e9, math.log(0.2 / 0.8), math.log(0.8 / 0.2)]
    model = logistic(torch.tensor(logit).double()[:, None], torch.zeros(3, dtype=torch.int64), base=0.3)
    model.w[:], model.u[:] = 1.0, 0.0
    assert model.keep(torch.arange(3), torch.arange(3)).tolist() == pytest.approx([0.3, 0.44, 0.86])
    model.u[0] = 1e9  # the bias of their class
    assert model.keep(torch.arange(3), torch.arange(3)).tolist()[1:] == [1, 1]


def test_the_running_mean_has_no_bias_at_its_beginning():
    mean = RunningMean()
    found = [mean.after(sum(losses), 2) for losses in ((2, 4), (1, 1), (0, 3))]
    assert found == pytest.approx([3.0, 1.857143, 1.702703], abs=5e-7)


def test_the_logistic_assistant_begins_small_and_steps_down_its_loss():
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.standard_normal((40, 5))), torch.from_numpy(rng.integers(3, size=40))
    model = logistic(x, y, lr=0.7, decay=0.2)
    drawn = stream(4, "assistant").standard_normal(8)
    np.testing.assert_allclose(torch.cat([model.w, model.u]), 0.001 * drawn)
    w, u = (torch.from_numpy(rng.standard_normal(k)).requires_grad_() for k in (5, 3))
    model.w, model.u = w.detach().clone(), u.detach().clone()
    rows = torch.tensor([3, 17, 4, 4, 39, 20, 8])
    hard = torch.tensor([1, 0, 1, 1, 0, 0, 1]).bool()
    model.learn(rows, hard)
    z = x[rows] @ w + u[y[rows]]
    data = functional.binary_cross_entropy_with_logits(z, hard.double(), reduction="sum")
    loss = (data + 0.2 / 2 * (u[y[rows]] ** 2).sum() + 0.2 / 2 * w @ w) / 7
    loss.backward()
    np.testing.assert_allclose(model.w, (w - 0.7 * w.grad).detach(), rtol=1e-13)
    np.testing.assert_allclose(model.u, (u - 0.7 * u.grad).detach(), rtol=1e-13)


def test_its_target_is_a_loss_above_the_mean_or_a_wrong_label():
    batch = Batch(torch.tensor([0.5, 2.0, 1.0]), torch.tensor([True, True, False]), 1.0, torch.zeros(1, 1))
    assert ASSISTANTS["logistic"]().tell(batch).tolist() == [False, True, False]
    assert ASSISTANTS["logistic"](target="misclassified").tell(batch).tolist() == [False, False, True]


class Table:
    """Keep probabilities by sample, and how many samples before it were scanned when it was asked for."""

    scan_flops = learn_flops = 3.0

    def __init__(self, p):
        self.p, self.asked, self.learned = torch.as_tensor(p), [], []

    def keep(self, rows, k):
        self.asked += zip(rows.tolist(), k.tolist(), strict=True)
        return self.p[rows]

    def learn(self, rows, told):
        self.learned.append((rows.tolist(), told.tolist()))


def test_a_scan_is_that_of_one_sample_after_the_other():
    size, base, seed = 8, 0.25, 11
    samples = np.array([9, 4, 2, 7, 30, 31, 12, 5, 6, 20, 21])
    table = Table(0.25 + 0.75 * np.random.default_rng(1).random(40) ** 2)
    scan = Scan(samples, size, base, seed)
    found = [(*scan.batch(table, torch.device("cpu")), scan.scanned) for _ in range(40)]
    order = EpochBatches([len(samples)], [0], size, seed)  # the law of all runs
    kept, judged, k = [], 0, 0
    for rows, looked_at, scanned in found:
        while len(kept) < size:
            row, coin = (
                samples[order.at(k // size)[0][k % size]], stream(seed, "coins", k // size).random(size)[k % size]
            )  # fmt: skip
            judged += coin >= base
            if coin < max(base, table.p[row]):
                kept.append(row)
            k += 1
        assert (rows.tolist(), looked_at, scanned) == (kept, judged, k)
        kept, judged = [], 0
    assert k > 40 * size
    order_of = {(samples[order.at(i // size)[0][i % size]], i) for i in range(k + size)}
    assert set(table.asked) <= order_of


def played(settings, boss_s, scan_s, learn_s, rounds=60):
    """On the clock, with a Boss that only takes its time: (kind, batches that waited) of each work; the feeder."""
    chooser, samples = Table(torch.full((50,), 0.5)), np.arange(50)
    feeder = Feeder(settings, chooser, Scan(samples, 4, settings.base, 1), rounds, torch.zeros(1))
    did = []

    def boss():
        for t in range(rounds):
            rows, *_ = yield Recv(BATCHES)
            yield Compute("step", lambda: None, tag=t)
            yield Send(REPORTS, rows.double())

    def cost(number, kind):
        if number == 1:
            did.append((kind, len(feeder.waiting)))
        return {"step": boss_s, "scan": scan_s, "learn": learn_s}[kind]

    trace = VirtualClock({0: boss(), 1: feeder.run()}, cost).run()
    return did, feeder, chooser, trace


def test_the_assistant_learns_only_while_enough_batches_wait_and_the_queue_has_room():
    settings = ASSISTANTS["logistic"](queue=6, enough=4)
    did, feeder, chooser, trace = played(settings, boss_s=1.0, scan_s=0.1, learn_s=0.1)
    assert max(waiting for _, waiting in did) == 6
    assert min(waiting for kind, waiting in did if kind == "learn") >= 4
    assert feeder.steps == len(chooser.learned) > 40
    assert trace.busy_s(0) / trace.makespan_s > 0.98  # the Boss never waited but for the first batch
    assert all(rows == told for rows, told in chooser.learned)  # each report is of its own batch


def test_a_boss_that_is_starved_gets_batches_and_teaches_nothing():
    settings = ASSISTANTS["logistic"](queue=6, enough=4)
    did, feeder, *_ = played(settings, boss_s=0.1, scan_s=1.0, learn_s=1.0)
    assert feeder.steps == 0
    assert [kind for kind, _ in did] == ["scan"] * 60


def test_the_oldest_reports_are_dropped():
    settings = ASSISTANTS["logistic"](queue=6, enough=0)
    _, feeder, chooser, _ = played(settings, boss_s=0.5, scan_s=0.1, learn_s=2.0)
    assert 0 < feeder.steps < 60
    assert feeder.reports.maxlen == 6
    sent = [rows for rows, _ in chooser.learned]
    assert len({tuple(rows) for rows in sent}) == len(sent)


def test_a_synchronous_assistant_learns_from_each_batch_before_the_next():
    settings = ASSISTANTS["logistic"](synchronous=True)
    did, feeder, *_ = played(settings, boss_s=1.0, scan_s=0.1, learn_s=0.1)
    assert [kind for kind, _ in did] == [*["scan", "learn"] * 59, "scan"]
    assert feeder.reports == deque([feeder.reports[0]])  # of the last batch, from which nobody learns


def test_the_inverse_schedule_is_the_step_of_pegasos():
    decay, offset = 0.02, 100
    schedule = SCHEDULES["inverse"](offset)
    for k in (0, 1, 999):
        assert schedule.lr(k, 10, 1 / (decay * offset)) == pytest.approx(
            1 / (decay * (k + offset)), rel=1e-14
        )


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("logistic", {"base": 1.2}, "base = 1.2 must be a probability in"),
        ("logistic", {"base": -0.1}, "base = -0.1 must be a probability in"),
        ("logistic", {"base": 0.0}, "so that batches fill"),
        ("logistic", {"base": float("nan")}, "base = nan"),
        ("logistic", {"queue": 0}, "queue = 0 must be at least 1"),
        ("logistic", {"queue": 4}, "enough = 5 must be at least 0 and less than queue = 4"),
        ("logistic", {"lr": -1.0}, "lr = -1.0 must not be negative"),
        ("margin", {"epsilon": -1.0}, "epsilon = -1.0 must not be negative"),
        ("none", {"base": 0.5}, 'base = 0.5 of assistant.name = "none" must be 1'),
    ],
)
def test_what_an_assistant_cannot_be_is_refused(name, settings, said):
    with pytest.raises(ValueError, match=said):
        ASSISTANTS[name](**settings)


def test_a_synchronous_assistant_asks_for_no_room():
    assert ASSISTANTS["logistic"](synchronous=True, queue=1).queue == 1
