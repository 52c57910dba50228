"""Muon has the bits of torch's on matrices and of torch's AdamW on vectors: on rows, as an optimizer, in rounds."""

import pytest
import torch
from layer_loops import ByTorch
from layered_workers import LAYOUT, RATES, G, X, fill, network, said
from test_rules import DECAY, RING, in_rounds
from torch import nn

from decentral.algorithms import DSGD, PmSGD
from decentral.comm import LocalComm
from decentral.comm.layout import Layout, Span
from decentral.optimizers import Muon
from decentral.optimizers.muon import orthogonal

RULES = [
    Muon(), Muon(0.8, nesterov=False, adjust_lr_fn="match_rms_adamw", ns_steps=3, eps=1e-5),
    Muon(ns_coefficients=(2.0, -1.5, 0.5), beta1=0.8, beta2=0.9, vectors_eps=1e-4),
]  # fmt: skip


def by_torch(rule, g, decay, after=lambda x: x):
    x = X.clone()
    parts = [[nn.Parameter(view.clone()) for view in LAYOUT.views(row).values()] for row in x]
    made = [ByTorch(rule, of_worker, 1.0, decay) for of_worker in parts]
    for lr, g_t in zip(RATES, g, strict=True):
        for i, one in enumerate(made):
            for p, value, grad in zip(
                parts[i], LAYOUT.views(x[i].to(g)).values(), LAYOUT.views(g_t[i]).values(), strict=True
            ):
                p.data, p.grad = value.clone(), grad.clone()
                if p in one.matrices:
                    one.matrices[p].data = value.flatten(1).clone()
            one.step(lr)
        x = after(torch.stack([torch.cat([p.detach().flatten() for p in of_worker]) for of_worker in parts]))
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("rule", RULES, ids=said)
def test_rows_make_torch_s_steps(rule, decay, dtype):
    g, decayed = G.to(dtype), rule.decayed(decay)
    for rows in (slice(0, 4), slice(1, 2)):
        x, y = X[rows].to(dtype, copy=True), X[rows].to(dtype, copy=True)
        state, other = decayed.init(x, LAYOUT), decayed.init(y, LAYOUT)
        for lr, g_t in zip(RATES, g[:, rows], strict=True):
            kept = g_t.clone()
            state = decayed.step_(x, state, g_t, LAYOUT, lr)
            d, other = decayed.direction(y, other, g_t, LAYOUT, lr)
            y = y - lr * d
            assert torch.equal(g_t, kept)
        assert torch.equal(x, by_torch(rule, g, decay)[rows])
        # ten steps, each with some ten roundings of numbers below 10
        torch.testing.assert_close(y, x, rtol=0, atol=10 * 10 * 10 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_in_rounds_it_is_each_worker_s_own_or_that_of_the_mean(rule, monkeypatch):
    monkeypatch.setattr("test_rules.rates", lambda rounds: RATES[:rounds])
    comm, mean = LocalComm(RING), G.mean(1, keepdim=True).expand(G.shape)
    for method, g, after in ((DSGD(), G, comm.mix), (PmSGD(0.0), mean, lambda x: x)):
        found, _ = in_rounds(method, rule, X, G, DECAY, None, RING, LAYOUT)
        # a mean that is rounded otherwise may be rounded otherwise to bfloat16 too
        expected = by_torch(rule, g, DECAY, after)
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if method == DSGD() else 1e-2)


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_a_built_optimizer_makes_torch_s_steps(rule):
    ours, theirs = network().float(), network().float()
    step = rule.build(ours.parameters(), 0.02, DECAY)
    expected = ByTorch(rule, [p for p in theirs.parameters() if p.requires_grad], 0.02, DECAY)
    falling = torch.optim.lr_scheduler.StepLR(step, 2, 0.5)
    for t in range(6):
        fill(ours, t, (0, 3) if t in (0, 3) else ())
        fill(theirs, t, (0, 3) if t in (0, 3) else ())
        expected.step(step.param_groups[0]["lr"])
        step.step()
        falling.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_singular_values_become_nearly_one_whatever_the_shape():
    draw = torch.Generator().manual_seed(0)
    for shape in ((8, 8), (4, 30), (30, 4), (1, 5)):
        u, _, v = torch.linalg.svd(torch.randn(shape, generator=draw), full_matrices=False)
        m = u * torch.linspace(0.2, 1, min(shape)) @ v
        found = torch.linalg.svdvals(orthogonal(m, Muon().ns_coefficients, 5, 1e-7).float())
        assert found.min() > 0.6
        assert found.max() < 1.3


def test_a_gradient_of_zeros_moves_nothing_but_by_weight_decay():
    layout = Layout((Span("w", 0, 6, (2, 3)), Span("b", 6, 8, (2,))))
    x, rule = torch.ones(2, 8), Muon().decayed(0.5)
    rule.step_(x, rule.init(x, layout), torch.zeros(2, 8), layout, 0.1)
    torch.testing.assert_close(x, torch.full((2, 8), 0.95))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ns_steps": 0}, "ns_steps = 0 must be from 1 to 99"),
        ({"momentum": 1.0}, "momentum = 1.0 must be in [0, 1)"),
        ({"adjust_lr_fn": "none"}, "adjust_lr_fn = 'none' must be one of original, match_rms_adamw"),
        ({"ns_coefficients": (1.0, 2.0)}, "must be three finite numbers"),
        ({"vectors_eps": 0.0}, "vectors_eps = 0.0 must be positive"),
        ({"vectors_lr": -1.0}, "vectors_lr = -1.0 must be at least 0"),
    ],
)
def test_settings_without_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match="must be") as told:
        Muon(**settings)
    assert words in str(told.value)
