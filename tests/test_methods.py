"""What theory says of every method, whatever the graph: exact averaging, one worker, changing learning rates."""

import dataclasses

import numpy as np
import pytest
import torch

import topologies
from decentral.algorithms import (
    ALGORITHMS,
    D2,
    DSGD,
    EXTRA,
    DecentLaM,
    DIGing,
    DmSGD,
    ExactDiffusion,
    GossipPGA,
    GradientTracking,
    LocalSGD,
    MomentumTracking,
    PmSGD,
)
from decentral.comm import LocalComm

CORE = [
    PmSGD(0.0),
    PmSGD(0.9),
    PmSGD(0.9, nesterov=True),
    DSGD(),
    DSGD("awc"),
    DmSGD(0.9),
    DmSGD(0.9, "awc"),
    DmSGD(0.9, "nesterov"),
    DmSGD(0.9, "doubly-averaged"),
    DecentLaM(0.9),
]
ALL = [
    *CORE,
    D2(),
    ExactDiffusion(),
    EXTRA(),
    GradientTracking(),
    GradientTracking(0.9),
    DIGing(0.9),
    MomentumTracking(0.9),
    LocalSGD(3, 0.9),
    GossipPGA(3, 0.9),
]


def gradients(n, d, rounds, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rounds, n, d)))


def play(method, w, g, lr=0.1, start=None):
    """x after rounds with the given gradients; ``lr`` a number or one for each round."""
    comm = LocalComm(w, check=False)
    x = torch.zeros(g.shape[1:], dtype=torch.float64) if start is None else start.clone()
    state = method.init(x, comm)
    for t, g_t in enumerate(g):
        x, state = method.step(x, state, g_t, comm.at(t), lr if isinstance(lr, float) else lr[t])
    return x


@pytest.mark.parametrize("method", [DmSGD(0.9), DmSGD(0.9, "doubly-averaged"), DecentLaM(0.9)], ids=str)
def test_with_exact_averaging_momentum_methods_equal_parallel_momentum_sgd(method):
    g = gradients(6, 5, 40)
    w = np.full((6, 6), 1 / 6)
    torch.testing.assert_close(play(method, w, g), play(PmSGD(0.9), w, g), rtol=0, atol=1e-13)


def test_with_exact_averaging_nesterov_equals_nesterov():
    g, w = gradients(6, 5, 40), np.full((6, 6), 1 / 6)
    torch.testing.assert_close(
        play(DmSGD(0.9, "nesterov"), w, g), play(PmSGD(0.9, nesterov=True), w, g), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("method", ALL, ids=str)
def test_with_one_worker_every_method_is_sgd_of_torch(method):
    g = gradients(1, 7, 60)
    lrs = [0.1 * (1 + t % 5) for t in range(60)]
    parameter = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    nesterov = getattr(method, "nesterov", False) or getattr(method, "variant", "") == "nesterov"
    optimizer = torch.optim.SGD(
        [parameter], lr=0.1, momentum=getattr(method, "momentum", 0.0), nesterov=nesterov
    )
    for lr, g_t in zip(lrs, g, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = g_t[0].clone()
        optimizer.step()
    x = play(method, np.ones((1, 1)), g, lrs)
    torch.testing.assert_close(x[0], parameter.detach(), rtol=1e-12, atol=1e-12)


def textbook_decentlam(w, g, lrs, beta):
    """The m-form of the paper, dividing by lr, in numpy."""
    W, x = w.toarray(), np.zeros(g.shape[1:])
    m = np.zeros_like(x)
    for lr, g_t in zip(lrs, g.numpy(), strict=True):
        z = x - lr * g_t
        m = beta * m + (x - W @ z) / lr
        x = x - lr * m
    return x


def test_decentlam_with_changing_learning_rates_equals_the_papers_form():
    w = topologies.mixing_matrix(topologies.ring(7), "metropolis")
    g = gradients(7, 3, 50)
    lrs = [0.1] * 10 + [0.01] * 20 + [0.2 * (t + 1) / 20 for t in range(20)]
    np.testing.assert_allclose(
        play(DecentLaM(0.9), w, g, lrs).numpy(), textbook_decentlam(w, g, lrs, 0.9), atol=1e-12
    )


def dense_reference(method, w, g, lr):
    """The equations of the docstrings with dense matrices, out of place."""
    W, x = w.toarray(), np.zeros(g.shape[1:])
    beta = getattr(method, "momentum", 0.0)
    m, before = np.zeros_like(x), x
    J = np.full_like(W, 1 / len(W))
    for g_t in g.numpy():
        if isinstance(method, PmSGD):
            m = beta * m + J @ g_t
            x = x - lr * (J @ g_t + beta * m if method.nesterov else m)
        elif isinstance(method, DecentLaM):
            x, before = W @ (x - lr * g_t) + beta * (x - before), x
        else:
            m = beta * m + g_t
            variant = method.variant
            if variant == "awc":
                x = W @ x - lr * m
            elif variant == "nesterov":
                x = W @ (x - lr * (g_t + beta * m))
            else:
                x = W @ (x - lr * m)
            if variant == "doubly-averaged":
                m = W @ m
    return x


@pytest.mark.parametrize("method", CORE, ids=str)
@pytest.mark.parametrize("graph", ["ring", "star", "erdos-renyi", "exponential"])
def test_a_step_is_its_equation_with_dense_matrices(method, graph):
    if isinstance(method, DecentLaM) and graph == "exponential":
        method = DecentLaM(0.1)
    w = topologies.mixing_matrix(topologies.TOPOLOGIES[graph](9), "metropolis")
    g = gradients(9, 4, 30)
    np.testing.assert_allclose(play(method, w, g).numpy(), dense_reference(method, w, g, 0.1), atol=1e-11)


@pytest.mark.parametrize("method", ALL, ids=str)
def test_the_gradient_that_is_handed_in_is_not_written_to(method):
    g = gradients(5, 3, 1)
    kept = g.clone()
    play(method, topologies.mixing_matrix(topologies.ring(5)), g)
    assert torch.equal(g, kept)


@pytest.mark.parametrize("method", ALL, ids=str)
def test_the_mean_of_the_models_moves_by_the_mean_of_the_gradients(method):
    # doubly stochastic mixing keeps the mean: it follows parallel momentum SGD whatever the graph
    g = gradients(8, 3, 30)
    w = topologies.mixing_matrix(topologies.ring(8))
    nesterov = getattr(method, "nesterov", False) or getattr(method, "variant", "") == "nesterov"
    alone = PmSGD(getattr(method, "momentum", 0.0), nesterov=nesterov)
    torch.testing.assert_close(play(method, w, g).mean(0), play(alone, w, g)[0], rtol=0, atol=1e-12)


def test_every_method_of_the_table_is_a_frozen_dataclass_with_its_equation_and_reference_text():
    for name, cls in ALGORITHMS.items():
        assert dataclasses.is_dataclass(cls), name
        assert cls.__dataclass_params__.frozen
        for word in ("Cost", "Fixed point", "Unstable", " = "):
            assert word in cls.__doc__, (name, word)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5])
@pytest.mark.parametrize("cls", [PmSGD, DmSGD, DecentLaM])
def test_momentum_outside_its_range_is_refused(cls, momentum):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        cls(momentum)
