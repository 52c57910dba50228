"""Update rules have the bits of torch's optimizers, on rows, by parameters, in rounds; gradients are cut to a norm."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from command import decentral, write
from layer_loops import LOOPS, ByLoops, ByTorch
from test_methods import gradients
from test_metrics import HERE
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import topologies
from decentral.algorithms import ALGORITHMS, DSGD, DecentLaM, DiLoCo, DmSGD, PmSGD
from decentral.algorithms.state import tensors_of
from decentral.comm import LocalComm
from decentral.comm.layout import Layout, Span
from decentral.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Rule
from decentral.optimizers.clipping import clipped
from decentral.rounds.advance import advance
from decentral.rounds.ruled import ruled
from decentral.runs.experiment import load
from decentral.runs.journal import Journal
from decentral.runs.rounds.training import Training

RULES = [SGD(), SGD(0.9), SGD(0.9, nesterov=True), Adam(), Adam(0.8, 0.99, 1e-6), AdamW(), AdamW(0.5, 0.9)]
RING = topologies.mixing_matrix(topologies.ring(4))
DECAY = 0.05


def torch_s(rule, parameters, lr=0.1, decay=0.0):
    """Torch's own optimizer with the rule's settings."""
    if isinstance(rule, SGD):
        return torch.optim.SGD(parameters, lr, rule.momentum, nesterov=rule.nesterov, weight_decay=decay)
    kind = torch.optim.AdamW if isinstance(rule, AdamW) else torch.optim.Adam
    return kind(parameters, lr, (rule.beta1, rule.beta2), rule.eps, decay)


def by_itself(rule, parameters, lr, decay):
    """What the rule is to be: torch's own optimizer where it has one, else a loop of the paper's equation."""
    if type(rule).__name__ in LOOPS:
        return ByLoops(rule, parameters, lr, decay)
    return (ByTorch if type(rule).__name__ == "Muon" else torch_s)(rule, parameters, lr, decay)


def rates(rounds, base=0.01):
    return [base * (1 + t % 4) for t in range(rounds)]


def by_torch(rule, start, g, decay, after=lambda x: None):
    """x (h, d) after torch's steps with the gradients g (rounds, h, d) and changing rates; ``after`` changes it too."""
    x = nn.Parameter(start.clone())
    optimizer = torch_s(rule, [x], decay=decay)
    for lr, g_t in zip(rates(len(g)), g, strict=True):
        optimizer.param_groups[0]["lr"], x.grad = lr, g_t.clone()
        optimizer.step()
        after(x.data)
    return x.detach()


def in_rounds(method, rule, start, g, decay, width=None, mixing=RING, layout=None):
    """x (h, d) after rounds of the method behind the rule, and the state."""
    comm, x = LocalComm(mixing, check=False), start.clone()
    comm.layout = layout
    method, left = ruled(method, rule, decay)
    state = method.init(x, comm)
    for t, (lr, g_t) in enumerate(zip(rates(len(g)), g, strict=True)):
        blocks = [(slice(0, g.shape[2]), g_t.clone())]
        x, state = advance(method, x, state, blocks, comm, t, lr, left, width)
    return x, state


def start(n, d, dtype=torch.float64):
    return torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(5))


# ------------------------------------------------------------------------------------------------------------ on rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_step_on_rows_has_the_bits_of_torch(rule, decay, dtype):
    g, x, layout = gradients(3, 37, 12).to(dtype), start(3, 37, dtype), Layout.whole(37)
    expected, rule = by_torch(rule, x, g, decay), rule.decayed(decay)
    state = rule.init(x, layout)
    for lr, g_t in zip(rates(len(g)), g, strict=True):
        kept = g_t.clone()
        state = rule.step_(x, state, g_t, layout, lr)
        assert torch.equal(g_t, kept)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_direction_is_that_step_but_for_rounding(rule, decay):
    # a step has some ten roundings of x and of lr d, which are below 10 here, and there are twelve steps
    g, x, layout, rule = gradients(3, 37, 12), start(3, 37), Layout.whole(37), rule.decayed(decay)
    y, one, other = x.clone(), rule.init(x, layout), rule.init(x, layout)
    for lr, g_t in zip(rates(len(g)), g, strict=True):
        before = x.clone()
        d, one = rule.direction(x, one, g_t, layout, lr)
        assert torch.equal(x, before)
        x = x.sub(d, alpha=lr)
        other = rule.step_(y, other, g_t, layout, lr)
        if isinstance(rule, SGD) or not decay:
            assert all(map(torch.equal, tensors_of(one), tensors_of(other)))
    torch.testing.assert_close(x, y, rtol=0, atol=0 if isinstance(rule, SGD) else 12 * 10 * 10 * 2**-53)


def test_a_rule_takes_the_place_of_adamw_inside_diloco():
    g, x, method = gradients(4, 37, 12), start(4, 37), DiLoCo(every=3)
    own, state = in_rounds(replace(method, beta1=0.8, decay=DECAY), None, x, g, 0.0)
    given, behind = in_rounds(method, AdamW(beta1=0.8), x, g, DECAY)
    torch.testing.assert_close(given, own, rtol=0, atol=1e-13)
    torch.testing.assert_close(behind.method.u, state.u, rtol=0, atol=1e-13)
    assert behind.method._fields == ("x", "u")


def test_plain_sgd_is_no_rule_to_ask():
    method = DSGD()
    assert ruled(method, None, DECAY) == ruled(method, SGD(), DECAY) == (method, DECAY)
    for rule in RULES[1:]:
        asked, left = ruled(method, rule, DECAY)
        assert (asked.method, asked.rule.weight_decay, left) == (method, DECAY, 0.0)
        assert rule.weight_decay == 0.0
        assert asked.rule != rule


def test_weight_decay_is_no_key_of_the_section(tmp_path):
    for name in OPTIMIZERS:
        file = write(tmp_path / "x.toml", optimizer={"name": name, "weight_decay": 0.1})
        said = decentral("run", file, "--out", tmp_path / "out")
        assert (said.code, "unknown key optimizer.weight_decay" in said.err) == (2, True)


# --------------------------------------------------------------------------------------------- as a torch optimizer


def two_layers(dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def fill(module, t):
    draw = torch.Generator().manual_seed(t)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=draw)


def same(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_built_optimizer_has_the_bits_of_torch_with_groups_gaps_schedulers_and_saved_states(rule, dtype):
    ours, theirs = two_layers(dtype), two_layers(dtype)
    for module in (ours, theirs):
        module[0].weight.data = module[0].weight.data.T.contiguous().T  # not in one piece

    def groups(module):
        return [{"params": module[0].parameters()}, {"params": module[2].parameters(), "weight_decay": 0.0}]

    step, expected = rule.build(groups(ours), 0.02, DECAY), torch_s(rule, groups(theirs), 0.02, DECAY)
    falling = [torch.optim.lr_scheduler.StepLR(one, 2, 0.5) for one in (step, expected)]
    for t in range(6):
        for module in (ours, theirs):
            fill(module, t)
            module[2].bias.grad = None if t % 2 else module[2].bias.grad
        step.step()
        expected.step()
        for one in falling:
            one.step()
        if t == 3:
            fresh = rule.build(groups(ours), 0.5, 0.5)
            fresh.load_state_dict(copy.deepcopy(step.state_dict()))
            falling[0].optimizer = step = fresh
    assert same(ours, theirs)
    assert not same(ours, two_layers(dtype))


def test_a_built_optimizer_is_copied_with_its_module():
    module = two_layers()
    step = Adam().build(module.parameters(), 0.01, DECAY)
    fill(module, 0)
    step.step()
    twin, same_step = copy.deepcopy((module, step))
    for one, optimizer in ((module, step), (twin, same_step)):
        fill(one, 1)
        optimizer.step()
    assert same(module, twin)


def test_a_built_optimizer_calls_its_closure_with_gradients():
    module = two_layers()
    step = Adam().build(module.parameters(), 0.01, 0.0)

    def closure():
        loss = module(torch.ones(2, 5, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    first = step.step(closure)
    step.zero_grad()
    assert step.step(closure) < first


# --------------------------------------------------------------------------------------------------------- in rounds


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_each_worker_of_dsgd_makes_torch_s_step_and_then_they_mix(rule, decay):
    g, x, comm = gradients(4, 9, 10), start(4, 9), LocalComm(RING)
    expected = by_torch(rule, x, g, decay, lambda x: x.copy_(comm.mix(x)))
    assert torch.equal(in_rounds(DSGD(), rule, x, g, decay)[0], expected)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_worker_is_torch(rule):
    g, x = gradients(1, 9, 10), start(1, 9)
    expected = by_torch(rule, x, g, DECAY)
    for method in (DSGD(), DSGD("awc"), PmSGD(0.0), DmSGD(0.0), DecentLaM(0.0)):
        found, _ = in_rounds(method, rule, x, g, DECAY, mixing=np.ones((1, 1)))
        exact = method == DSGD() or (isinstance(rule, SGD) and method != DecentLaM(0.0))
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if exact else 1e-13)


def mixes_on_a_ring(name):
    traits = ALGORITHMS[name]().traits
    return not {"columns", "tree"} & {*traits.needs} and not traits.optimizer


@pytest.mark.parametrize("name", [*filter(mixes_on_a_ring, ALGORITHMS)])
def test_every_method_is_given_the_rule_s_direction_for_its_gradient(name):
    method = ALGORITHMS[name]()
    rule, g, x = AdamW(0.8, 0.9), gradients(4, 6, 8), start(4, 6)
    shares = method.traits.sends == "gradients"  # then models are alike, and the rule steps with the mean
    x = x[:1].expand(4, -1) if shares else x
    matrix = RING if method.traits.weights else method.schedule(topologies.ring(4))
    found, _ = in_rounds(method, rule, x, g, DECAY, mixing=matrix)
    comm, y, rule = LocalComm(matrix, check=False), x.clone(), rule.decayed(DECAY)
    layout = Layout.whole(6)
    state, own = method.init(y, comm), rule.init(y, layout)
    for t, (lr, g_t) in enumerate(zip(rates(len(g)), g, strict=True)):
        g_t = g_t.mean(0, keepdim=True).expand(4, -1) if shares else g_t
        d, own = rule.direction(y, own, g_t, layout, lr)
        y, state = method.step(y, state, d, comm.at(t), lr)
    torch.testing.assert_close(found, y, rtol=0, atol=1e-12)
    assert not torch.equal(found, in_rounds(method, None, x, g, DECAY, mixing=matrix)[0])


@pytest.mark.parametrize(
    "method", [DSGD(), DSGD("awc"), DmSGD(), DecentLaM(), ALGORITHMS["push-sum"]()], ids=repr
)
@pytest.mark.parametrize("rule", RULES[1:], ids=repr)
def test_blocks_of_columns_have_the_bits_of_whole_rows(rule, method):
    g, x = gradients(4, 31, 6), start(4, 31)
    whole, state = in_rounds(method, rule, x, g, DECAY, width=31)
    for width in (1, 7, 16):
        parts, after = in_rounds(method, rule, x, g, DECAY, width=width)
        assert torch.equal(parts, whole)
        assert all(map(torch.equal, tensors_of(after), tensors_of(state)))
        assert getattr(after.rule, "steps", 0) == getattr(state.rule, "steps", 0)


class Inside(NamedTuple):
    """v (h, d): the velocity, with lr in it; q (h, L): the last ratio of each layer."""

    v: Tensor
    q: Tensor


@dataclass(frozen=True)
class ByLayers(Rule):
    """LARS as in its paper: q = trust |x| / (|g| + decay |x|) of a layer, v = m v + lr q (g + decay x), x = x - v."""

    layers: ClassVar[bool] = True
    momentum: float = 0.9
    trust: float = 0.01

    def init(self, x, layout):
        return Inside(x.new_zeros(x.shape), x.new_zeros(len(x), len(layout.spans)))

    def direction(self, x, state, g, layout, lr):
        after = x.clone()
        state = self.step_(after, state, g, layout, lr)
        return (x - after) / lr, state

    def step_(self, x, state, g, layout, lr):
        q, wide = state.q, torch.empty_like(x)
        for k, span in enumerate(layout.spans):
            here = span.columns
            sizes = x[:, here].norm(dim=1), g[:, here].norm(dim=1)
            q[:, k] = self.trust * sizes[0] / (sizes[1] + self.weight_decay * sizes[0])
            wide[:, here] = q[:, k, None]
        v = state.v.mul_(self.momentum).add_(self._joined(g, x) * wide, alpha=lr)
        x.sub_(v)
        return Inside(v, q)


SPANS = Layout(
    (Span("a", 0, 12, (3, 4), "dense"), Span("b", 12, 16, (4,)), Span("c", 16, 31, (5, 3), "dense"))
)


def test_a_rule_that_looks_at_layers_gets_whole_rows_and_their_layout():
    rule, g, x = ByLayers(), gradients(4, 31, 6), start(4, 31)
    comm = LocalComm(RING)
    expected, parameters = [], []
    for row in x:
        parameters.append([nn.Parameter(view.clone()) for view in SPANS.views(row).values()])
        expected.append(rule.build(parameters[-1], 0.1, DECAY))
    y = x.clone()
    for lr, g_t in zip(rates(len(g)), g, strict=True):
        for i, step in enumerate(expected):
            for p, value, grad in zip(
                parameters[i], SPANS.views(y[i]).values(), SPANS.views(g_t[i]).values(), strict=True
            ):
                p.data.copy_(value)
                p.grad = grad.clone()
            step.param_groups[0]["lr"] = lr
            step.step()
            y[i] = torch.cat([p.detach().flatten() for p in parameters[i]])
        y = comm.mix(y)
    for width in (5, 31):
        found, state = in_rounds(DSGD(), rule, x, g, DECAY, width=width, layout=SPANS)
        torch.testing.assert_close(found, y, rtol=0, atol=1e-13)
        assert state.rule.q.shape == (4, 3)
    found, _ = in_rounds(DecentLaM(0.0), rule, x, g, DECAY, width=5, layout=SPANS)
    torch.testing.assert_close(found, y, rtol=0, atol=1e-12)


def digits(tmp_path, **changes):
    """A small network's run, as it is configured."""
    table = {
        "problem": {"name": "mlp", "hidden": [8]},
        "topology": {"name": "ring", "workers": 1},
        "train": {
            "lr": 0.01,
            "rounds": 6,
            "batch_size": 16,
            "dtype": "float64",
            "weight_decay": DECAY,
            "oracle": "loop",
        },
    }
    return load(write(tmp_path / "x.toml", **{**table, **changes})).runs[0].config


def has_loop_here(name):
    """Others are in test_rsg, test_nlcg_runs and test_seboost."""
    return name not in ("rsg", "arsg", "nlcg", "seboost")


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", [*filter(has_loop_here, OPTIMIZERS)])
def test_a_run_of_one_worker_is_a_plain_loop(tmp_path, name, clip):
    config = digits(tmp_path, optimizer={"name": name, **({"momentum": 0.9} if name == "sgd" else {})})
    if clip:
        object.__setattr__(config.train, "clip_norm", clip)
    training = Training(config, HERE, Journal())
    objective = config.problem.build(training.objective.place)
    parts = {
        name: nn.Parameter(part.clone()) for name, part in objective.layout.views(objective.start()).items()
    }
    step = by_itself(config.optimizer, [*parts.values()], 0.01, DECAY)
    for t in range(6):
        inputs, labels = objective._batch(t)
        found = torch.func.functional_call(objective.evaluation.module, parts, inputs[0])
        step.zero_grad()
        cross_entropy(found, labels[0]).backward()
        if clip:
            assert nn.utils.clip_grad_norm_(parts.values(), clip) > clip
        step.step()
    assert training.run().status == "finished"
    row, exact = (
        torch.cat([p.detach().flatten() for p in parts.values()]),
        type(config.optimizer).__name__ not in LOOPS and not clip,
    )
    torch.testing.assert_close(training.x[0], row, rtol=0, atol=0 if exact else 1e-13)


# ------------------------------------------------------------------------------------------------------------ clipping


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most", [1e-3, 1.0, 1e9])
def test_gradients_are_cut_to_a_norm_as_torch_does(most, dtype):
    g = torch.randn(5, 5_000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    g[1] *= 1e-4
    g[2] = 0
    expected = []
    for row in g:
        p = nn.Parameter(torch.zeros_like(row))
        p.grad = row.clone()
        nn.utils.clip_grad_norm_([p], most)
        expected.append(p.grad)
    ((columns, found),) = clipped([(slice(0, 5_000), g.clone())], most)
    assert columns == slice(0, 5_000)
    # torch sums d squares in the row's own numbers: at most d roundings, half of them of the norm, and two of the scale
    torch.testing.assert_close(found, torch.stack(expected), rtol=5_000 * torch.finfo(dtype).eps, atol=0)
    for cut in (1, 2_048, 3_001):
        blocks = [(slice(a, min(a + cut, 5_000)), g[:, a : a + cut].clone()) for a in range(0, 5_000, cut)]
        assert torch.equal(clipped(blocks if cut > 1 else blocks[:], most)[0][1], found)
    for row in range(5):  # whoever hosts it
        assert torch.equal(clipped([(slice(0, 5_000), g[row : row + 1].clone())], most)[0][1][0], found[row])


def test_a_gradient_that_is_not_finite_stays_so():
    g = torch.tensor([[1.0, torch.inf], [1.0, torch.nan], [3.0, 4.0]])
    found = clipped([(slice(0, 2), g)], 1.0)[0][1]
    assert found[:2].isnan().any(1).all()
    torch.testing.assert_close(found[2], torch.tensor([0.6, 0.8]))


def test_clipping_comes_before_weight_decay_and_the_method(tmp_path):
    config = digits(tmp_path, topology={"workers": 2}, algorithm={"name": "dmsgd"})
    object.__setattr__(config.train, "clip_norm", 0.1)
    training = Training(config, HERE, Journal())
    objective = config.problem.build(training.objective.place)
    comm, method = LocalComm(config.topology.mixing()), config.algorithm
    x = objective.start().expand(2, -1).clone()
    state = method.init(x, comm)
    for t in range(6):
        g = torch.cat([g for _, g in objective.gradient(x, t)], dim=1)
        scale = 0.1 / (g.norm(dim=1, keepdim=True) + 1e-6)
        assert (scale < 1).all()
        x, state = method.step(x, state, g * scale + DECAY * x, comm.at(t), 0.01)
    training.run()
    torch.testing.assert_close(training.x, x, rtol=0, atol=1e-12)
