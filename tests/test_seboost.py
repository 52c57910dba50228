"""SEBOOST: its boosts are minima of a batch's loss in the space of the steps so far, and their cost is counted."""

import copy

import numpy as np
import pytest
import torch
from command import but_wall_time, decentral, metrics
from ranks import decentral as launch
from test_methods import gradients
from test_resume import die, dying, same_results  # noqa: F401
from test_rule_runs import TRAIN, write
from test_rules import HERE, RING, digits, start
from torch import nn

from decentral.algorithms import DSGD, PmSGD
from decentral.comm import LocalComm
from decentral.comm.layout import Layout
from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS, SEBOOST, SGD
from decentral.optimizers.conjugate import conjugate_gradients
from decentral.optimizers.subspace import descend
from decentral.problems.other_batches import OtherBatches
from decentral.rounds.ruled import ruled
from decentral.rounds.script.checks import check_optimizer
from decentral.runs.journal import Journal
from decentral.runs.rounds.training import Training

D = 12
# f is known to some eps f, so a minimiser to about sqrt(2 eps f / 0.2) = 1e-7 for f below 5; there are six of them
CLOSE = 1e-6
SETTINGS = {"every": 3, "history": 2, "momentum": 0.5, "anchors": [1, 2], "evaluations": 500}


class Bowls:
    """f_i(x) = (x - c_i)' A_i (x - c_i) / 2 of h workers; all batches are alike."""

    def __init__(self, h):
        draw = np.random.default_rng(3)
        bases = [np.linalg.qr(draw.standard_normal((D, D)))[0] for _ in range(h)]
        self.A = np.stack([(q * np.linspace(0.2, 1, D)) @ q.T for q in bases])
        self.c = draw.standard_normal((h, D))

    def evaluate(self, x, k):
        g = self.gradient(x)
        return ((x - torch.from_numpy(self.c)) * g).sum(1) / 2, g

    def gradient(self, x):
        return torch.einsum("hij,hj->hi", torch.from_numpy(self.A), x - torch.from_numpy(self.c))


def lowest(x, directions, A, b):
    """The minimiser of y'Ay/2 - b'y in x + span(directions), (d,), by least squares."""
    P, root = np.stack(directions, 1), np.linalg.cholesky(A).T
    alpha, *_ = np.linalg.lstsq(root @ P, np.linalg.solve(root.T, b - A @ x), rcond=1e-13)
    return x + P @ alpha


class Loop:
    """One worker of the paper's loop, with the exact minimiser in the place of conjugate gradients."""

    def __init__(self, x, A, b):
        self.x, self.A, self.b = x, A, b
        self.v, self.last, self.sum = np.zeros(D), x, np.zeros(D)
        self.history, self.anchors = [np.zeros(D), np.zeros(D)], [x, x]

    def step(self, g, lr):
        self.v = 0.9 * self.v + g
        self.x = self.x - lr * self.v

    def boost(self, count):
        k = (count - 1) % 2
        if np.linalg.norm(self.x - self.last) > 1e-5:
            self.history[k] = self.x - self.last
        units = [(self.x - a) / max(np.linalg.norm(self.x - a), 1e-300) for a in self.anchors]
        after = lowest(self.x, [*self.history, self.sum, *units], self.A, self.b)
        self.history[k] = self.history[k] + after - self.x
        self.sum = 0.5 * self.sum + self.history[k]
        self.x = self.last = after
        self.anchors[0] = after
        if count % 2 == 1:
            self.anchors[1] = after


# ----------------------------------------------------------------------------------------------- conjugate gradients


def descended(f, m, most):
    """(the lowest value, where, how many evaluations)."""
    search = conjugate_gradients(m, most)
    point, found, count = next(search), [], 0
    while True:
        value, gradient = f(point)
        found.append((value, tuple(point)))
        count += 1
        try:
            point = search.send((value, gradient))
        except StopIteration:
            return (*min(found), count)


def rosenbrock(x):
    a, b = x
    return (1 - a) ** 2 + 100 * (b - a * a) ** 2, np.array(
        [2 * (a - 1) - 400 * a * (b - a * a), 200 * (b - a * a)]
    )


def test_conjugate_gradients_find_a_valley_s_end_and_stop_when_they_are_told_to():
    value, point, count = descended(rosenbrock, 2, 500)
    assert value < 1e-15
    np.testing.assert_allclose(point, [1, 1], atol=1e-6)
    assert count < 200
    before = np.inf
    for most in (2, 5, 25, 60):
        value, _, count = descended(rosenbrock, 2, most)
        assert (count, value <= before, value < 1.0) == (most, True, most > 2)
        before = value


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e8])
def test_conjugate_gradients_come_back_from_where_there_is_no_value(scale):
    def f(x):  # x - log x, from 5 on a scale of its own; it is infinite below 0
        y = 5 + x[0] * scale
        if y <= 0:
            return np.nan, np.array([np.nan])
        return y - np.log(y), np.array([(1 - 1 / y) * scale])

    value, _, count = descended(f, 1, 60)
    assert count <= 60
    assert value == pytest.approx(1, abs=1e-6)
    assert descended(lambda x: (np.inf, x), 3, 25)[2] == descended(lambda x: (1.0, 0 * x), 3, 25)[2] == 1


# -------------------------------------------------------------------------------------------------------- the boosts


def test_the_lowest_point_of_an_affine_space_is_found():
    bowls, x = Bowls(3), start(3, D)
    directions = [start(3, D).roll(k + 1, 1) * 2.0 ** (k - 2) for k in range(5)]
    for worker in range(3):  # the centre lies in the space, so that f is 0 there and not rounded
        apart = lowest(
            x[worker].numpy(), [p[worker].numpy() for p in directions], bowls.A[worker], right(bowls)[worker]
        )
        bowls.c[worker] = apart
    found = descend(x, directions, lambda y: bowls.evaluate(y, 0), lambda v: v, 500)
    np.testing.assert_allclose(found.x, bowls.c, rtol=0, atol=1e-8)
    few = descend(x, directions, lambda y: bowls.evaluate(y, 0), lambda v: v, 7)
    assert few.evaluations.tolist() == [7, 7, 7]
    losses = [bowls.evaluate(y, 0)[0] for y in (x, few.x, found.x)]
    assert (losses[0] > losses[1]).all()
    assert (losses[1] > losses[2]).all()


def test_boosts_are_the_minima_over_all_directions_that_the_paper_s_loop_has():
    bowls, x = Bowls(3), start(3, D)
    rule = SEBOOST(**SETTINGS, base=SGD(0.9))
    layout, g = Layout.whole(D), gradients(3, D, 18)
    state, workers = (
        rule.init(x, layout),
        [Loop(*of) for of in zip(x.numpy().copy(), bowls.A, right(bowls), strict=True)],
    )
    for t in range(18):
        lr = 0.02 * (1 + t % 3)
        noisy = bowls.gradient(x) + 0.3 * g[t]
        state = rule.step_(x, state, noisy, layout, lr)
        state = rule.evaluated(x, state, bowls.evaluate, lambda v: v)
        for worker, row in zip(workers, noisy.numpy(), strict=True):
            worker.step(row, lr)
            if t % 3 == 2:
                worker.boost(t // 3 + 1)
        np.testing.assert_allclose(x, [w.x for w in workers], rtol=0, atol=CLOSE)
    for name in ("history", "anchors"):
        for k, part in enumerate(getattr(state.past, name)):
            np.testing.assert_allclose(part, [getattr(w, name)[k] for w in workers], rtol=0, atol=CLOSE)
    np.testing.assert_allclose(state.past.momentum[0], [w.sum for w in workers], rtol=0, atol=CLOSE)
    assert state.steps == 18


def right(bowls):
    return np.einsum("hij,hj->hi", bowls.A, bowls.c)


def test_under_all_reduce_the_mean_over_workers_is_minimised_and_its_numbers_are_billed():
    bowls, x, comm = Bowls(4), start(1, D).expand(4, D).clone(), LocalComm(RING)
    rule = SEBOOST(**SETTINGS, base=SGD(0.9))
    method, _ = ruled(PmSGD(0.0), rule, 0.0)
    method = method.asking(bowls.evaluate)
    state = method.init(x, comm)
    worker = Loop(x[0].numpy().copy(), bowls.A.mean(0), right(bowls).mean(0))
    for t in range(9):
        g = bowls.gradient(x)
        x, state = method.step(x, state, g, comm.at(t), 0.1)
        worker.step(g.mean(0).numpy(), 0.1)
        if t % 3 == 2:
            worker.boost(t // 3 + 1)
        np.testing.assert_allclose(x, np.stack([worker.x] * 4), rtol=0, atol=CLOSE)
        assert torch.equal(x, x[:1].expand(4, D))
    counts = state.rule.evaluations[:, 0]
    assert (counts == counts[0]).all()
    numbers = 2 * (4 - 1) / 4 * 8 * (9 * D + 6 * int(counts[0]))  # 5 directions, and f
    np.testing.assert_allclose(comm.ledger.bytes_sent, numbers)


def test_workers_that_gossip_boost_before_they_mix():
    bowls, x, comm = Bowls(4), start(4, D), LocalComm(RING)
    rule, layout = SEBOOST(every=2, base=SGD(0.5)), Layout.whole(D)
    method, _ = ruled(DSGD(), rule, 0.0)
    method, y = method.asking(bowls.evaluate), x.clone()
    state, own = method.init(x, comm), rule.init(y, layout)
    for t in range(6):
        x, state = method.step(x, state, bowls.gradient(x), comm.at(t), 0.1)
        own = rule.step_(y, own, bowls.gradient(y), layout, 0.1)
        own = rule.evaluated(y, own, bowls.evaluate, lambda v: v)
        y = comm.mix(y)
        assert torch.equal(x, y)


def table(name="seboost", **more):
    return {"name": name, "every": 2, "evaluations": 12, "base": {"name": "sgd", "momentum": 0.5}, **more}


def test_a_boost_never_makes_its_batch_s_loss_worse(tmp_path, monkeypatch):
    boost, pairs = SEBOOST.boost_, []

    def watched(self, x, past, boosts, evaluate, mean):
        before = evaluate(x.clone())[0]
        found = boost(self, x, past, boosts, evaluate, mean)
        pairs.append((before, evaluate(x.clone())[0]))
        assert (found <= self.evaluations).all()
        return found

    monkeypatch.setattr(SEBOOST, "boost_", watched)
    config = digits(
        tmp_path,
        optimizer=table(base="torch.optim:NAdam"),
        topology={"name": "ring", "workers": 3},
        algorithm={"name": "dsgd"},
        train={"lr": 0.3, "rounds": 12, "batch_size": 8, "dtype": "float32"},
    )
    assert Training(config, HERE, Journal()).run().status == "finished"
    before, after = (torch.stack(part) for part in zip(*pairs, strict=True))
    assert before.shape == (6, 3)
    assert (after <= before).all()
    assert (after < before).float().mean() > 0.8


def test_what_boosts_look_at_is_no_round_s_batch_and_leaves_nothing_behind(tmp_path):
    config = digits(tmp_path, problem={"name": "cnn", "width": 2}, topology={"name": "ring", "workers": 2})
    objective = config.problem.build(Training(config, HERE, Journal()).objective.place)
    x = objective.start().expand(2, -1).clone()
    list(objective.gradient(x, 0))
    others, losses = OtherBatches(objective), objective.losses
    before = {name: b.clone() for name, b in objective.buffers.items()}
    first, g = others.evaluated(x, 1)
    assert any(name.endswith("running_mean") for name in before)
    assert all(torch.equal(b, before[name]) for name, b in objective.buffers.items())
    assert objective.losses is losses
    again, same = others.evaluated(x, 1)
    other, _ = others.evaluated(x, 2)
    assert torch.equal(first, again)
    assert torch.equal(g, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first, losses)


# ---------------------------------------------------------------------------------------------------------------- runs


def test_evaluations_are_counted_as_samples_epochs_and_seconds(home):
    compute = {"compute": {"name": "constant", "compute_s": 2.0}, "latency_s": 0.0, "bandwidth_bytes_s": 1e30}
    counts = {}
    for name, optimizer in (("with", table()), ("without", {"name": "sgd", "momentum": 0.5})):
        file = write(home / "x.toml", optimizer=optimizer, network=compute)
        said = decentral("run", file, "--out", home / name)
        assert said.code == 0, said.err
        ((_, rows),) = metrics(home / name).items()
        counts[name] = {int(row["round"]): row for row in rows}
    for t, boosts in ((0, 0), (2, 1), (4, 2), (8, 4)):
        ours, plain = counts["with"][t], counts["without"][t]
        more = boosts * 12  # none of them ends earlier
        assert int(plain["samples"]) == t * 16 * 4
        assert int(ours["samples"]) == (t + more) * 16 * 4
        assert float(ours["epoch"]) * 16 * 4 * t == pytest.approx(float(plain["epoch"]) * 16 * 4 * (t + more))
        assert float(ours["simulated_s"]) == pytest.approx(2.0 * (t + more))
        assert ours["bytes_sent_mean"] == plain["bytes_sent_mean"]


SWEEP = {"algorithm": [{"name": "dsgd"}, {"name": "pmsgd", "momentum": 0.0}]}


def test_a_run_goes_on_between_its_boosts(home, dying):  # noqa: F811
    more = {"train": {"checkpoint_every": 3}, "optimizer": table(every=5, anchors=[1]), "sweep": SWEEP}
    file = write(home / "x.toml", **more)
    assert decentral("run", file, "--out", home / "whole").code == 0
    die(dying, 4, file, "--out", home / "cut")
    said = decentral("run", file, "--out", home / "cut", "--resume")
    assert said.code == 0, said.err
    same_results(home / "whole", home / "cut")


@pytest.mark.mpi
def test_two_ranks_have_the_bits_of_one_process(tmp_path):
    more = {
        "optimizer": table(anchors=[1]),
        "sweep": SWEEP,
        "train": {**TRAIN, "oracle": "loop", "rounds": 6},
    }
    file = write(tmp_path / "x.toml", **more)
    for ranks in (1, 2):
        done = launch("run", file, "--out", tmp_path / f"on{ranks}", ranks=ranks)
        assert done.returncode == 0, done.stderr
    one, two = (metrics(tmp_path / f"on{ranks}") for ranks in (1, 2))
    assert len(one) == 2
    for name, rows in one.items():
        for ours, its in zip(but_wall_time(rows), but_wall_time(two[name]), strict=True):
            assert {**ours, "mpi_bytes_sent": ""} == {**its, "mpi_bytes_sent": ""}


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("rounds", {"optimizer": table(every=0)}, "[optimizer] every = 0 must be at least 1"),
        ("rounds", {"optimizer": table(momentum=1.0)}, "[optimizer] momentum = 1.0 must be in [0, 1)"),
        ("rounds", {"optimizer": table(anchors=[0])}, "anchors = [0] must be numbers of boosts, at least 1"),
        ("rounds", {"optimizer": table(base="adma")}, "optimizer.base.name = 'adma' is not known; did you mean 'adam'"),
        ("rounds", {"optimizer": table(base={"name": "sgd", "beta": 1})}, "unknown key optimizer.base.beta of sgd"),
        ("rounds", {"optimizer": table(base=3)}, "[optimizer] base = 3 must be a rule"),
        ("rounds", {"optimizer": table(base="seboost")}, "base = 'SEBOOST' asks for losses itself"),
        ("rounds", {"optimizer": table(base="torch.optim:LBFGS")}, "needs a closure"),
        ("rounds", {"optimizer": table(base="torch.optim:Muon")}, "Muon only supports 2D parameters"),
        ("rounds", {"optimizer": table(), "algorithm": {"name": "decentlam"}}, "a method that steps and then mixes"),
        ("asynchronous", {"optimizer": table()}, "a worker without rounds answers its neighbours"),
        ("stages", {"optimizer": table()}, "a stage has a part of the model"),
        ("gossip", {"optimizer": table()}, "a stage has a part of the model"),
        ("nodes", {"optimizer": table()}, "a node has a part of the model"),
    ],
)  # fmt: skip
def test_refusals(home, kind, change, words):
    said = decentral("run", write(home / "x.toml", kind, **change), "--out", "out")
    text = said.err.removesuffix("\n")
    assert (said.code, words in text, len(text) < 300, "\n" in text) == (2, True, True, False), said.err
    assert not (home / "out").exists()


# --------------------------------------------------------------------------------------------- as a torch optimizer


def fitted():
    """A module, and the closure of its loss on one batch."""
    draw = torch.Generator().manual_seed(1)
    module = nn.Linear(4, 3).double()
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=draw, dtype=torch.float64)
    x, y = (torch.randn(20, k, generator=draw, dtype=torch.float64) for k in (4, 3))
    return module, lambda step: closure_of(module, step, x, y)


def closure_of(module, step, x, y):
    def closure():
        step.zero_grad()
        loss = (module(x).tanh() - y).square().mean()
        loss.backward()
        return loss

    return closure


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])[None]


@pytest.mark.parametrize(
    "base", [SGD(0.9), OPTIMIZERS["lamb"](), OPTIMIZERS["torch.optim:NAdam"]()], ids=lambda b: b.title
)
def test_as_a_torch_optimizer_it_makes_the_steps_of_a_row(base):
    rule = SEBOOST(every=3, anchors=[1], base=base)
    module, closure = fitted()
    twin, its = copy.deepcopy(module), None
    step = rule.build(module.parameters(), 0.05, 0.0)
    falling = torch.optim.lr_scheduler.StepLR(step, 4, 0.5)
    its = closure(step)
    row, layout = flat(twin), Layout.of(twin)
    state = rule.init(row, layout)

    def evaluate(y, k):
        nn.utils.vector_to_parameters(y[0], module.parameters())
        loss = its()
        return loss.detach().reshape(1), torch.cat([p.grad.flatten() for p in module.parameters()])[None]

    for t in range(10):
        here = flat(module)
        g = evaluate(row, 0)[1]
        state = rule.step_(row, state, g, layout, 0.05 * 0.5 ** (t // 4))
        state = rule.evaluated(row, state, evaluate, lambda v: v)
        nn.utils.vector_to_parameters(here[0], module.parameters())
        step.step(its)
        falling.step()
        # norms of LAMB are taken of a row by blocks here, and of parameters there
        torch.testing.assert_close(flat(module), row, rtol=0, atol=1e-9)
        if t == 4:  # between two boosts
            fresh = rule.build(module.parameters(), 1.0, 0.0)
            fresh.load_state_dict(copy.deepcopy(step.state_dict()))
            falling.optimizer, step, its = fresh, fresh, closure(fresh)
    assert step.evaluations == int(state.evaluations[0, 0]) > 3


def test_without_a_closure_it_is_refused():
    module, _ = fitted()
    step = SEBOOST().build(module.parameters(), 0.1, 0.0)
    with pytest.raises(ValueError, match=r"call step\(closure\)"):
        step.step(None)
    with pytest.raises(TypeError, match="closure"):
        step.step()
    with pytest.raises(UserError, match="does not take one dense step a gradient"):
        check_optimizer(step)  # of the drop-in, which has one gradient a round
