"""Rules of layers against loops of their papers' equations, in all places; lengths, states and norms that are zero."""

import copy
import io
import pickle
from dataclasses import dataclass
from typing import ClassVar

import asynchronous_workers
import numpy as np
import pytest
import test_programs_local
import test_stages_gossip
import torch
from command import decentral, metrics, write
from dataflow_networks import Chain, distance, play
from layer_loops import ByLoops
from ranks import decentral as launch
from test_methods import gradients
from test_mpi_parity import compare
from test_resume import die, dying  # noqa: F401
from test_rules import DECAY, RING, in_rounds, start
from test_stages_gossip import flat
from torch import nn

import topologies
from decentral.algorithms import DSGD, DecentLaM, DmSGD, PmSGD
from decentral.algorithms.asynchronous import ADPSGD, AsyncPushSum
from decentral.algorithms.state import tensors_of
from decentral.comm import LocalComm
from decentral.comm.layout import Layout, Span
from decentral.dataflow.updates import Updates
from decentral.optimizers import LAMB, LAMBC, LARC, LARS, Adam, NovoGrad
from decentral.rounds.advance import advance
from decentral.rounds.ruled import Ruled
from decentral.stages.programs.backprop import BackProp

RULES = [
    LARS(trust=0.02), LARS(velocity="plain", momentum=0.8), LARS(exclude="none", trust=0.1),
    LARS(velocity="plain", exclude="none"), LARC(), LARC(mode="scale", trust=0.1), LARC(exclude="none", trust=0.1),
    LAMB(), LAMB(0.8, 0.9, 1e-3, exclude="none"), LAMBC(upper=0.7), LAMBC(lower=0.5, upper=2.0, exclude="none"),
    NovoGrad(), NovoGrad(0.9, 0.5, 1e-3, averaging=True),
]  # fmt: skip
FEW = [LARS(trust=0.02), LARC(trust=0.1), LAMB(), LAMBC(upper=0.7), NovoGrad()]
RATES = [0.02, 0.05, 0.01, 0.0, 0.1, 0.02, 0.02, 0.3, 0.01, 0.04]
CLOSE = {"rtol": 0, "atol": 1e-10}


def network():
    """A convolution, a matrix, vectors, a gain that is 0, and a matrix that is frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2)
        )
    module[1].bias.data.zero_()
    module[4].weight.requires_grad_(False)
    return module.double()


LAYOUT = Layout.of(network())
D = LAYOUT.d
G = gradients(4, D, len(RATES), seed=7)
G[:, 1, LAYOUT.spans[4].columns] = 0.0  # worker 1 has a layer without a gradient
X = start(4, D)
X[:, LAYOUT.spans[3].columns] = 0.0


def by_loops(rule, decay, g, rates, after, directions=False):
    """x (h, d) after steps of each worker's loop; ``after(x, lr, t)`` is what becomes of x, or of the direction."""
    x = X[: g.shape[1]].clone()
    parts = [[nn.Parameter(view.clone()) for view in LAYOUT.views(row).values()] for row in x]
    loops = [ByLoops(rule, of_worker, 1.0, decay) for of_worker in parts]
    for t, (lr, g_t) in enumerate(zip(rates, g, strict=True)):
        stepped = []
        for i, loop in enumerate(loops):
            named = zip(parts[i], LAYOUT.views(x[i]).values(), LAYOUT.views(g_t[i]).values(), strict=True)
            for p, value, grad in named:
                p.data, p.grad = value.clone(), grad.clone()
            loop.param_groups[0]["lr"] = lr
            loop.step()
            stepped.append(torch.cat([p.detach().flatten() for p in parts[i]]))
        stepped = torch.stack(stepped)
        x = after((x - stepped) / lr if directions else stepped, lr, t)
    return x


def said(rule):
    """Its name and what is not its default, for a test's name."""
    return repr(rule).replace("weight_decay=0.0, ", "") if not isinstance(rule, float) else str(rule)


def each(test):
    return pytest.mark.parametrize("rule", RULES, ids=said)(
        pytest.mark.parametrize("decay", [0.0, DECAY])(test)
    )


# ------------------------------------------------------------------------------------------------------------- on rows


@each
def test_rows_make_the_steps_of_the_loops(rule, decay):
    expected = by_loops(rule, decay, G, RATES, lambda x, *_: x)
    decayed, x, y = rule.decayed(decay), X.clone(), X.clone()
    state, other = decayed.init(x, LAYOUT), decayed.init(y, LAYOUT)
    for lr, g in zip(RATES, G, strict=True):
        kept, before = g.clone(), y.clone()
        state = decayed.step_(x, state, g, LAYOUT, lr)
        d, other = decayed.direction(y, other, g, LAYOUT, lr)
        assert torch.equal(g, kept)
        assert torch.equal(y, before)
        y = y - lr * d
    torch.testing.assert_close(x, expected, **CLOSE)
    if not (isinstance(rule, LARS) and rule.velocity == "scaled"):  # whose step moves x at lr = 0 too
        torch.testing.assert_close(y, expected, **CLOSE)
    assert not torch.allclose(x, by_loops(rule, 0.3, G, RATES, lambda x, *_: x), **CLOSE)


@each
def test_a_worker_s_bits_do_not_depend_on_whom_it_is_hosted_with(rule, decay):
    rule = rule.decayed(decay)
    for dtype in (torch.float32, torch.float64):
        found = []
        for rows in (slice(0, 4), slice(2, 4), slice(2, 3)):
            x = X[rows].to(dtype, copy=True)
            state = rule.init(x, LAYOUT)
            for lr, g in zip(RATES, G.to(dtype), strict=True):
                state = rule.step_(x, state, g[rows], LAYOUT, lr)
            found.append(x[2 - rows.start])
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


# ----------------------------------------------------------------------------------------------------------- in rounds

STEADY = [0.02, 0.05, 0.01, 0.04, 0.1, 0.02, 0.02, 0.3, 0.01, 0.04]


@pytest.fixture(autouse=True)
def rates_of_rounds(monkeypatch):
    monkeypatch.setattr("test_rules.rates", lambda rounds: STEADY[:rounds])


def rounds(method, rule, decay, g=G, mixing=RING, width=None):
    return in_rounds(method, rule, X[: g.shape[1]], g, decay, width, mixing, LAYOUT)[0]


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_under_gossip_each_worker_makes_its_step_and_then_they_mix(rule):
    comm = LocalComm(RING)
    expected = by_loops(rule, DECAY, G, STEADY, lambda x, *_: comm.mix(x))
    for width in (None, 7):
        torch.testing.assert_close(rounds(DSGD(), rule, DECAY, width=width), expected, **CLOSE)


@pytest.mark.parametrize("method", [DmSGD(0.5), DecentLaM(0.5), DSGD("awc")], ids=said)
@pytest.mark.parametrize("rule", RULES, ids=said)
def test_methods_that_do_more_with_a_gradient_take_the_direction_for_it(rule, method):
    comm = LocalComm(RING)
    held = [X.clone(), method.init(X.clone(), comm)]

    def step(d, lr, t):
        held[0], held[1] = method.step(held[0], held[1], d, comm.at(t), lr)
        return held[0].clone()

    expected = by_loops(rule, DECAY, G, STEADY, step, directions=True)
    torch.testing.assert_close(rounds(method, rule, DECAY), expected, **CLOSE)


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_all_reduce_averages_and_then_comes_the_rule(rule):
    mean = G.mean(1, keepdim=True).expand(G.shape)
    expected = by_loops(rule, DECAY, mean, STEADY, lambda x, *_: x)
    torch.testing.assert_close(rounds(PmSGD(0.0), rule, DECAY), expected, **CLOSE)


@pytest.mark.parametrize("method", [DSGD(), DecentLaM(), PmSGD(0.0)], ids=said)
@pytest.mark.parametrize("rule", FEW, ids=said)
def test_gradients_in_blocks_and_workers_by_turns_have_the_same_bits_and_bytes(rule, method, monkeypatch):
    def told(blocks, threads=1, laid=torch.clone):
        comm, x, both = LocalComm(RING), X.clone(), Ruled(method, rule.decayed(DECAY))
        comm.layout = LAYOUT
        state = both.init(x, comm)
        torch.set_num_threads(threads)
        for t, (lr, g) in enumerate(zip(STEADY, G, strict=True)):
            given = [(part, laid(g[:, part])) for part in blocks]
            x, state = advance(both, x, state, given, comm, t, lr)
        torch.set_num_threads(1)
        return [x, *tensors_of(state)], comm.ledger.bytes_sent.tolist(), int(comm.ledger.messages)

    whole = told([slice(0, D)])
    blocks = [slice(0, 5), slice(5, 40), slice(40, D)]
    others = [told(blocks)]
    for rows in (1, 3):
        monkeypatch.setattr("decentral.rounds.by_rows.block_height", lambda h, d, threads, rows=rows: rows)
        others += [told(blocks), told([slice(0, D)]), told(blocks, threads=2)]
    spans = [span.columns for span in LAYOUT.spans]
    others += [told(spans), told(spans, laid=lambda g: g.T.contiguous().T)]
    for other in others:
        assert all(map(torch.equal, other[0], whole[0]))
        assert other[1:] == whole[1:]


@pytest.mark.parametrize("rule", FEW, ids=said)
def test_workers_with_batches_of_their_own_are_one_with_all_examples(rule):
    one = rounds(PmSGD(0.0), rule, DECAY, G[:, :1].clone() * 0 + G.mean(1, keepdim=True), np.ones((1, 1)))
    alike = X[:1].expand(4, -1).clone()
    many = in_rounds(PmSGD(0.0), rule, alike, G, DECAY, None, RING, LAYOUT)[0]
    torch.testing.assert_close(many, one.expand(4, -1), rtol=0, atol=1e-12)
    assert torch.equal(many, many[:1].expand(4, -1))


def test_steps_of_workers_scaled_before_their_mean_are_too_short():
    # 8 workers whose gradients are noise: their mean is sqrt(8) times shorter, and LARS makes up for just that
    d, n = 4_000, 8
    layout = Layout((Span("w", 0, d, (40, 100), "dense"),))
    g, x = gradients(n, d, 1), start(1, d).expand(n, -1)
    complete = topologies.mixing_matrix(topologies.complete(n), "uniform")
    moved = {}
    for method in (DSGD(), PmSGD(0.0)):
        after, _ = in_rounds(method, LARS(trust=0.1), x, g, 0.0, None, complete, layout)
        moved[type(method).__name__] = float((after - x)[0].norm())
    assert moved["PmSGD"] == pytest.approx(STEADY[0] * 0.1 * float(x[0].norm()), rel=1e-12)
    # the cosine of two such gradients is about 1 / sqrt(d) = 0.016, so the mean of n unit vectors is 1 / sqrt(n) long
    assert moved["DSGD"] / moved["PmSGD"] == pytest.approx(8**-0.5, rel=0.06)


# ------------------------------------------------------------------------------- without rounds, in stages and in nodes


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_a_worker_without_rounds_makes_the_steps_of_the_loop(rule, monkeypatch):
    layout = Layout((Span("a", 0, 4, (2, 2)), Span("b", 4, 6, (2,))))

    class Layers(asynchronous_workers.Bowl):
        def __init__(self, a, c):
            super().__init__(a, c)
            self.layout = layout

    monkeypatch.setattr(asynchronous_workers, "Bowl", Layers)
    a, c = gradients(1, 6, 1, seed=3)[0].abs().numpy(), gradients(1, 6, 1, seed=4)[0].numpy()
    for method in (ADPSGD(), AsyncPushSum()):
        told = asynchronous_workers.played(
            method, np.ones((1, 1)), start(1, 6).numpy(), 10, lr=0.02, a=a, c=c, rule=rule.decayed(DECAY)
        )
        parts = [nn.Parameter(view.clone()) for view in layout.views(start(1, 6)[0]).values()]
        loop = ByLoops(rule, parts, 0.02, DECAY)
        for _ in range(told.workers[0].t):
            x = torch.cat([p.detach().flatten() for p in parts])
            g = torch.tensor(a[0]) * (x - torch.tensor(c[0]))
            for p, grad in zip(parts, layout.views(g).values(), strict=True):
                p.grad = grad.clone()
            loop.step()
        assert told.workers[0].t >= 10
        found = torch.tensor(asynchronous_workers.models(told))[0]
        torch.testing.assert_close(found, torch.cat([p.detach().flatten() for p in parts]), **CLOSE)


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("rule", RULES, ids=said)
def test_stages_make_the_steps_of_the_loop(rule, stages):
    double = torch.float64
    whole, *_ = test_programs_local.train(
        BackProp(), stages, double, optimizer=lambda p: rule.build(p, 0.01, DECAY)
    )
    expected = test_programs_local.backprop_by_torch(double, lambda p: ByLoops(rule, p, 0.01, DECAY))
    test_programs_local.same(whole, expected, tolerance=1e-10)


@pytest.mark.parametrize("method", [DSGD(), DecentLaM(), PmSGD(0.0)], ids=said)
@pytest.mark.parametrize("rule", FEW, ids=said)
def test_stages_that_gossip_ask_it_as_rounds_do(rule, method):
    rounds_of = Ruled(method, rule.decayed(DECAY))
    modules, _, stages = test_stages_gossip.train(BackProp(), rounds_of, RING)
    comm_s = LocalComm(RING)
    comm_s.layout = Layout.of(test_stages_gossip.module())
    expected = rounds_with_layout(rounds_of, comm_s)
    torch.testing.assert_close(torch.stack([flat(whole) for whole in modules]), expected, **CLOSE)
    assert [len(span.shape) for span in stages[0][0].comm.layout.spans] == [2, 1] * 2


def rounds_with_layout(method, comm):
    """:func:`test_stages_gossip.rounds_of_whole_models` with a communicator that knows the layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_stages_gossip, "LocalComm", lambda *_, **__: comm)
        return test_stages_gossip.rounds_of_whole_models(method, RING)[0]


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_nodes_make_the_steps_of_the_loop(rule):
    case = Chain(14)
    ours = play(case, 3, updates=lambda _, p: Updates(rule.build(p, 0.01, DECAY)))
    theirs = play(case, 3, updates=lambda _, p: Updates(ByLoops(rule, p, 0.01, DECAY)))
    assert distance(ours.modules, theirs.modules) < 1e-10
    assert distance(ours.modules, case.modules()) > 1e-5


# ---------------------------------------------------------------------------------------------- from the command line

RUNS = """
seeds = [3]
[problem]
name = "mlp"
hidden = [8]
[topology]
name = "ring"
workers = 4
[train]
lr = 0.02
rounds = 9
batch_size = 8
dtype = "float64"
record_every = 3
checkpoint_every = 4
weight_decay = 0.01
[sweep.optimizer]
name = ["lambc", "lars", "novograd", "muon"]
[[sweep.algorithm]]
name = "dsgd"
[[sweep.algorithm]]
name = "decentlam"
[[sweep.algorithm]]
name = "pmsgd"
momentum = 0.0
"""


@pytest.mark.mpi
@pytest.mark.usefixtures("home")
def test_runs_that_were_killed_go_on_with_the_same_bits_on_two_ranks(tmp_path, dying):  # noqa: F811
    (tmp_path / "x.toml").write_text(RUNS)
    assert decentral("run", tmp_path / "x.toml", "--out", tmp_path / "whole").code == 0
    die(dying, 2, tmp_path / "x.toml", "--out", tmp_path / "out")
    done = launch("run", tmp_path / "x.toml", "--out", tmp_path / "out", "--resume", ranks=2, drawn=False)
    assert done.returncode == 0, done.stderr
    whole, other = (metrics(tmp_path / out) for out in ("whole", "out"))
    assert len(whole) == 12
    compare(whole, other, tolerance=0)
    ends = {run: rows[-1]["train_loss"] for run, rows in whole.items()}
    assert len({*ends.values()}) == 12


@pytest.mark.usefixtures("home")
def test_a_run_of_vectors_only_says_that_the_rule_acts_on_nothing(tmp_path):
    for exclude in ("vectors", "none"):
        file = write(
            tmp_path / "x.toml",
            optimizer={"name": "lars", "exclude": exclude},
            train={"lr": 0.01, "rounds": 2},
        )
        assert decentral("run", file, "--out", tmp_path / exclude).code == 0
        (told,) = (tmp_path / exclude / "runs").glob("*/environment.json")
        assert ("LARS acts on nothing here" in told.read_text()) is (exclude == "vectors")


# --------------------------------------------------------------------------------------------------- as torch optimizer


def fill(module, t, absent=()):
    draw = torch.Generator().manual_seed(t)
    for k, p in enumerate(module.parameters()):
        grad = torch.randn(p.shape, dtype=p.dtype, generator=draw)
        p.grad = grad if p.requires_grad and k not in absent else None


def groups(module):
    *first, last = (p for p in module.parameters() if p.requires_grad)
    return [{"params": first}, {"params": [last], "lr": 0.05, "weight_decay": 0.0}]


ABSENT = [(), (0,), (0, 5), (), (2,), (), (1, 2, 3), ()]


def same(one, other, **close):
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, **(close or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("first", [(), (0, 3)], ids=["all", "some"])
@each
def test_a_built_optimizer_makes_the_steps_of_the_loop(rule, decay, first):
    ours, theirs = network(), network()
    for module in (ours, theirs):
        module[3].weight.data = module[3].weight.data.T.contiguous().T  # not in one piece
    step, loop = rule.build(groups(ours), 0.02, decay), ByLoops(rule, groups(theirs), 0.02, decay)
    falling = [torch.optim.lr_scheduler.StepLR(one, 2, 0.5) for one in (step, loop)]
    for t, absent in enumerate([first, *ABSENT]):
        for module, one, schedule in zip((ours, theirs), (step, loop), falling, strict=True):
            fill(module, t, absent)
            one.step()
            schedule.step()
        if t == 5:
            fresh = rule.build(groups(ours), 9.0, 9.0)
            buffer = io.BytesIO()
            torch.save(step.state_dict(), buffer)
            buffer.seek(0)
            fresh.load_state_dict(torch.load(buffer, weights_only=True))
            falling[0].optimizer = step = fresh
    same(ours, theirs, **CLOSE)
    assert torch.equal(ours[4].weight, network()[4].weight)


@pytest.mark.parametrize("way", ["loaded", "copied", "pickled"])
@pytest.mark.parametrize("rule", RULES, ids=said)
def test_it_goes_on_with_the_same_bits(rule, way):
    module = network()
    step = rule.build(groups(module), 0.02, DECAY)
    for t in range(3):
        fill(module, t, ABSENT[t])
        step.step()
    if way == "loaded":
        twin = copy.deepcopy(module)
        other = rule.build(groups(twin), 0.5, 0.5)
        other.load_state_dict(copy.deepcopy(step.state_dict()))
    else:
        both = copy.deepcopy if way == "copied" else lambda pair: pickle.loads(pickle.dumps(pair))
        twin, other = both((module, step))
    for t in range(3, 6):
        for one, optimizer in ((module, step), (twin, other)):
            fill(one, t)
            optimizer.step()
    same(module, twin)
    kept = step.state_dict()["state"]
    assert set(kept) == set(range(6 + 1))
    for k, p in enumerate(p for p in module.parameters() if p.requires_grad):
        assert kept[k]["m"].shape == (1, p.numel())


@pytest.mark.parametrize("rule", FEW, ids=said)
def test_parameters_may_be_added_and_states_taken_away(rule):
    ours, theirs = network(), network()
    made = []
    for module, make in ((ours, rule.build), (theirs, lambda *a: ByLoops(rule, *a))):
        one = make(module[0].parameters(), 0.02, DECAY)
        made.append(one)
        for t in range(6):
            fill(module, t)
            if t == 2:
                one.add_param_group({"params": module[3].parameters(), "lr": 0.1})
            if t == 4:
                one.state.clear()
            one.step()
    same(ours, theirs, **CLOSE)
    assert not torch.equal(ours[3].weight, network()[3].weight)


@pytest.mark.parametrize("rule", FEW, ids=said)
def test_a_closure_is_called_with_gradients(rule):
    module = network()
    step = rule.build(module.parameters(), 0.01, 0.0)

    def closure():
        step.zero_grad()
        loss = module(torch.ones(2, 2, 3, 3, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    losses = [step.step(closure).item() for _ in range(20)]
    assert losses[-1] < losses[0]


@dataclass(frozen=True)
class Joint(LARC):
    """Looks at all layers as one vector."""

    joint: ClassVar[bool] = True


def test_a_rule_of_one_vector_refuses_another_vector():
    module = network()
    step = Joint(exclude="none").build(module.parameters(), 0.1, 0.0)
    for t in range(2):
        fill(module, t)
        step.step()
    (kept,) = step.state_dict()["state"].values()
    assert kept["m"].shape == (1, D)
    fill(module, 2, absent=(0,))
    with pytest.raises(ValueError, match="of the same parameters in every step"):
        step.step()


# ---------------------------------------------------------------------------------------------------------------- facts


@pytest.mark.parametrize("settings", [(0.9, 0.999, 1e-6), (0.5, 0.9, 1e-3)])
def test_lambc_with_wide_bounds_is_lamb(settings):
    found = [
        rounds(DSGD(), rule, DECAY) for rule in (LAMB(*settings), LAMBC(*settings, lower=0.0, upper=1e30))
    ]
    assert torch.equal(*found)
    assert not torch.equal(found[0], rounds(DSGD(), LAMBC(*settings, upper=1e-3), DECAY))


def test_the_state_of_novograd_is_half_of_adam_s():
    x, layout = (
        torch.zeros(1, 1_001_000),
        Layout((Span("w", 0, 10**6, (1000, 1000)), Span("b", 10**6, 1_001_000, (1000,)))),
    )
    sizes = [sum(t.numel() for t in rule.init(x, layout)[:2]) for rule in (NovoGrad(), Adam())]
    assert sizes == [1_001_002, 2_002_000]


@pytest.mark.parametrize("decay", [0.0, 0.1, 3.0])
def test_the_length_of_a_step_of_lars(decay):
    # without decay lr trust |w|; with it, where g and w are orthogonal, between that / sqrt(2) and that
    rule, layout = LARS(trust=0.01).decayed(decay), Layout((Span("w", 0, 60, (6, 10)),))
    for of_g in (0.01, 1.0, 100.0):
        x, g = start(5, 60), gradients(5, 60, 1)[0]
        g -= (g * x).sum(1, keepdim=True) / x.square().sum(1, keepdim=True) * x
        g *= of_g
        before = x.clone()
        rule.step_(x, rule.init(x, layout), g, layout, 0.3)
        lengths = (x - before).norm(dim=1) / (0.3 * 0.01 * before.norm(dim=1))
        assert (lengths <= 1 + 1e-12).all()
        assert (lengths >= (0.5**0.5 if decay else 1.0) - 1e-12).all()


def test_a_layer_of_lamb_moves_by_lr_times_its_norm():
    rule, x, g = LAMB(), X.clone(), G[0]
    rule.step_(x, rule.init(x, LAYOUT), g, LAYOUT, 0.1)
    for span in LAYOUT.spans:
        moved, before = (x - X)[0, span.columns].norm(), X[0, span.columns].norm()
        if len(span.shape) > 1:
            torch.testing.assert_close(moved, 0.1 * before, rtol=1e-12, atol=0)
        else:  # Adam's first step, of size lr
            torch.testing.assert_close(moved, moved * 0 + 0.1 * span.size**0.5, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "rule",
    [LARS(0.0, exclude="none"), LARC(0.0, mode="scale", exclude="none"), LAMB(exclude="none")],
    ids=said,
)
@pytest.mark.parametrize("zero", ["weights", "gradient", "both"])
def test_a_norm_of_zero_takes_the_ratio_one(rule, zero):
    layout = Layout((Span("w", 0, 4, (2, 2)),))
    x = torch.zeros(1, 4) if zero != "gradient" else torch.ones(1, 4)
    g = torch.zeros(1, 4) if zero != "weights" else torch.full((1, 4), 0.5)
    expected = x - 0.1 * (g / (g + rule.eps) if isinstance(rule, LAMB) else g)
    rule.step_(x, rule.init(x, layout), g, layout, 0.1)
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LARS(momentum=1.0), "momentum = 1.0 must be in [0, 1)"),
        (lambda: LARS(trust=0.0), "trust = 0.0 must be positive"),
        (lambda: LARC(trust=float("inf")), "trust = inf"),
        (lambda: LARS(velocity="paper"), "velocity"),
        (lambda: LAMB(beta2=1.0), "beta2 = 1.0 must be in [0, 1)"),
        (lambda: LAMB(eps=0.0), "eps = 0.0 must be positive"),
        (lambda: LAMBC(lower=2.0), "0 <= lower <= upper"),
        (lambda: NovoGrad(beta1=-0.1), "beta1 = -0.1 must be in [0, 1)"),
    ],
)
def test_settings_without_sense_are_refused(make, words):
    with pytest.raises(ValueError, match="must be") as said:
        make()
    assert words in str(said.value)
    assert len(str(said.value)) < 300
