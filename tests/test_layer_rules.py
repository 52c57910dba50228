"""Rules of layers on rows: loops of their equations, lengths, states, norms that are zero, what is refused."""

import pytest
import torch
from layered_workers import (
    CLOSE,
    LAYOUT,
    RATES,
    G,
    X,
    by_loops,
    each,
    rates_of_rounds,  # noqa: F401
    rounds,
    said,
)
from test_methods import gradients
from test_rules import DECAY, start

from decentral.algorithms import DSGD
from decentral.comm.layout import Layout, Span
from decentral.optimizers import LAMB, LAMBC, LARC, LARS, Adam, NovoGrad


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
