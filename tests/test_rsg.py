"""RSG and ARSG against loops of their equations, heavy ball, Nesterov and the length of a first step."""

import copy

import pytest
import torch
from asynchronous_workers import models
from test_metrics import HERE
from test_programs_local import STEPS, data, module, train
from test_rule_runs import played_by
from test_rules import DECAY, SPANS, digits, fill, gradients, in_rounds, rates, same, start, two_layers
from torch import nn
from torch.nn.functional import cross_entropy

from decentral.algorithms import DSGD, DecentLaM
from decentral.algorithms.asynchronous import ADPSGD
from decentral.algorithms.state import tensors_of
from decentral.comm.layout import Layout
from decentral.optimizers import ARSG, RSG
from decentral.runs.journal import Journal
from decentral.runs.rounds.training import Training
from decentral.stages.programs.backprop import BackProp
from decentral.tables import fields_of

RULES = [RSG(), RSG(0.9, 0.3, boost_at=4), ARSG(), ARSG(0.9, 0.2, 5, beta2=0.8, eps=1e-3)]


def loop(rule, x, g, decay, lrs):
    """The paper's equations, on tensors of any shape; each of ``g`` is a gradient, or gives it at x."""
    x, m, v, most = x.clone(), torch.zeros_like(x), torch.zeros_like(x), torch.full_like(x, 1e-8)
    if isinstance(rule, ARSG):
        most = torch.full_like(x, rule.eps)
    for k, (lr, g_k) in enumerate(zip(lrs, g, strict=True)):
        a, mu = (lr / 4, 2 * rule.mu) if rule.boost_at and k >= rule.boost_at else (lr, rule.mu)
        g_k = (g_k(x) if callable(g_k) else g_k) + decay * x
        m = rule.beta * m + (1 - rule.beta) * g_k
        step = (1 - mu) * m + mu * g_k
        if isinstance(rule, ARSG):
            v = rule.beta2 * v + (1 - rule.beta2) * g_k**2
            most = torch.maximum(most, v)
            step = step / most.sqrt()
        x = x - a * step
    return x


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_step_is_the_paper_s(rule, decay):
    g, x = gradients(3, 37, 12), start(3, 37)
    expected, rule, layout = loop(rule, x, g, decay, rates(12)), rule.decayed(decay), Layout.whole(37)
    state = rule.init(x, layout)
    for lr, g_t in zip(rates(12), g, strict=True):
        kept = g_t.clone()
        state = rule.step_(x, state, g_t, layout, lr)
        assert torch.equal(g_t, kept)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)
    assert state.steps == 12


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_built_optimizer_has_groups_gaps_and_saved_states(rule):
    module, plain = two_layers(), two_layers()
    module[0].bias.requires_grad_(False)
    groups = [{"params": module[0].parameters()}, {"params": module[2].parameters(), "weight_decay": 0.0}]
    step = rule.build(groups, 0.02, DECAY)
    given = {name: [] for name, _ in plain.named_parameters()}
    for t in range(8):
        fill(module, t)
        module[0].bias.grad = None
        for name, p in module.named_parameters():
            if p.grad is not None:
                given[name].append(p.grad.clone())
        for group in step.param_groups:
            group["lr"] = rates(8)[t]
        step.step()
        if t == 4:
            fresh = rule.build([dict(group) for group in step.param_groups], 0.5, 0.5)
            fresh.load_state_dict(copy.deepcopy(step.state_dict()))
            step = fresh
    for (name, p), q in zip(module.named_parameters(), plain.parameters(), strict=True):
        decay = 0.0 if name.startswith("2") else DECAY
        expected = loop(rule, q.detach(), given[name], decay, rates(8)) if given[name] else q
        torch.testing.assert_close(p, expected, rtol=0, atol=1e-12, check_layout=False)
    assert torch.equal(module[0].bias, plain[0].bias)
    assert not same(module, plain)


@pytest.mark.parametrize("rule", RULES[1:3], ids=repr)
def test_a_run_a_worker_without_rounds_and_stages_make_the_paper_s_step(tmp_path, rule):
    name = type(rule).__name__.lower()
    config = digits(tmp_path, optimizer={"name": name, **fields_of(rule)})
    training = Training(config, HERE, Journal())
    objective = config.problem.build(training.objective.place)
    of = [lambda x, t=t: torch.cat([g for _, g in objective.gradient(x, t)], dim=1) for t in range(6)]
    expected = loop(rule, objective.start()[None].clone(), of, DECAY, [0.01] * 6)
    assert training.run().status == "finished"
    torch.testing.assert_close(training.x, expected, rtol=0, atol=1e-12)

    play, x, a, c = played_by(rule.decayed(DECAY), ADPSGD(), 1)
    steps = play.workers[0].t
    expected = loop(rule, x, [lambda x: a * (x - c)] * steps, DECAY, [0.02] * steps)
    torch.testing.assert_close(torch.tensor(models(play)), expected, rtol=0, atol=1e-12)

    whole, *_ = train(BackProp(), 2, torch.float64, lambda p: rule.build(p, 0.01, DECAY))
    plain, batches = module(torch.float64), data(torch.float64)

    def at(x, t):
        nn.utils.vector_to_parameters(x, plain.parameters())
        inputs, labels = batches(t)
        found = torch.autograd.grad(cross_entropy(plain(inputs), labels), list(plain.parameters()))
        return torch.cat([g.flatten() for g in found])

    of = [lambda x, t=t: at(x, t) for t in range(STEPS)]
    first = nn.utils.parameters_to_vector(plain.parameters()).detach()
    found = nn.utils.parameters_to_vector(whole.parameters()).detach()
    torch.testing.assert_close(found, loop(rule, first, of, DECAY, [0.01] * STEPS), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("mu", "rate", "nesterov"),
    [(0.0, 1 - 0.9, False), (1 - 0.9, 1 - 0.9, True)],
    ids=["heavy ball", "nesterov"],
)
def test_rsg_is_heavy_ball_and_nesterov_at_their_settings(mu, rate, nesterov):
    g, x = gradients(2, 11, 200), start(2, 11)
    p, rule, layout = nn.Parameter(x.clone()), RSG(0.9, mu).decayed(DECAY), Layout.whole(11)
    torch_s = torch.optim.SGD([p], 0.05 * rate, 0.9, nesterov=nesterov, weight_decay=DECAY)
    state = rule.init(x, layout)
    for g_t in g:
        noisy = g_t + x  # so that steps depend on where they lead
        p.grad = g_t + p.detach()
        torch_s.step()
        state = rule.step_(x, state, noisy, layout, 0.05)
    torch.testing.assert_close(x, p.detach(), rtol=0, atol=1e-12)


def test_a_first_step_of_arsg_is_1_009_lr_long_and_eps_is_the_floor_of_small_gradients():
    g = torch.tensor([[3.0, -0.02, 1e4, 1e-6]], dtype=torch.float64)
    rule, layout = ARSG(), Layout.whole(4)
    d, state = rule.direction(torch.zeros_like(g), rule.init(g, layout), g, layout, 0.1)
    torch.testing.assert_close(
        d[0, :3].abs(), torch.full((3,), 1.009, dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert float(d[0, 3]) == pytest.approx(0.1009 * 1e-6 / 1e-4)
    # the largest v so far, however small gradients become
    d, after = rule.direction(torch.zeros_like(g), state, g * 0, layout, 0.1)
    torch.testing.assert_close(after.most[0, :3], 0.01 * g[0, :3] ** 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("method", [DSGD(), DecentLaM()], ids=repr)
@pytest.mark.parametrize("rule", RULES[1:3], ids=repr)
def test_blocks_of_columns_have_the_bits_of_whole_rows(rule, method):
    g, x = gradients(4, 31, 8), start(4, 31)
    whole, state = in_rounds(method, rule, x, g, DECAY, width=31, layout=SPANS)
    parts, after = in_rounds(method, rule, x, g, DECAY, width=7, layout=SPANS)
    assert torch.equal(parts, whole)
    assert all(map(torch.equal, tensors_of(after), tensors_of(state)))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (RSG, {"beta": 1.0}, "beta = 1.0 must be in"),
        (RSG, {"mu": 1.5}, "mu = 1.5 must be in"),
        (RSG, {"boost_at": -1}, "boost_at = -1 must not be negative"),
        (RSG, {"boost_at": 9, "mu": 0.6}, "at most 0.5"),
        (ARSG, {"beta2": -0.1}, "beta2 = -0.1 must be in"),
        (ARSG, {"eps": 0.0}, "eps = 0.0 must be positive"),
        (ARSG, {"eps": float("inf")}, "eps = inf must be a finite number"),
    ],
)
def test_refusals(kind, settings, words):
    with pytest.raises(ValueError, match=words):
        kind(**settings)
