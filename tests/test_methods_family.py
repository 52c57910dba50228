"""The methods beyond the core: where they rest, their published recursions, torch's optimizers, their stability."""

import networkx as nx
import numpy as np
import pytest
import torch
from test_fixed_points import D, dense_terms, expected, rest
from test_methods import gradients, play

import topologies
from decentral.algorithms import (
    ALGORITHMS,
    D2,
    DSGD,
    EXTRA,
    DIGing,
    DiLoCo,
    DmSGD,
    ExactDiffusion,
    GossipPGA,
    GradientTracking,
    LocalSGD,
    MomentumTracking,
    PmSGD,
    QuasiGlobal,
    SlowMo,
)
from decentral.algorithms.state import numbers_of, tensors_of, with_numbers, with_tensors
from decentral.comm import LocalComm
from decentral.errors import UserError
from decentral.problems.quadratic import Quadratic
from decentral.rounds.advance import advance
from decentral.rounds.trials.fixed_points import fixed_point
from decentral.rounds.trials.stability import amplification, refuse_unstable

GRAPHS = {
    "ring": topologies.ring(8),
    "torus": topologies.torus(16),
    "hypercube": topologies.hypercube(8),
    "petersen": nx.petersen_graph(),
}
EXACT = [
    D2(),
    ExactDiffusion(),
    EXTRA(),
    GradientTracking(),
    GradientTracking(0.5),
    DIGing(),
    DIGing(0.5),
    MomentumTracking(0.5),
]


def run(method, w, hessians, linear, lrs, x=None):
    """x and the state after a round for each learning rate, with the true gradients."""
    comm, H, r = LocalComm(w), torch.from_numpy(hessians), torch.from_numpy(linear)
    x = torch.zeros(linear.shape, dtype=torch.float64) if x is None else x
    state = method.init(x, comm)
    for t, lr in enumerate(lrs):
        x, state = method.step(x, state, (H @ x.unsqueeze(-1)).squeeze(-1) - r, comm.at(t), lr)
    return x.numpy(), state


def lazy(graph):
    return topologies.mixing_matrix(GRAPHS[graph], "lazy")


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("method", EXACT, ids=str)
def test_exact_methods_bring_every_worker_to_the_optimum_whatever_the_data(method, graph):
    w = lazy(graph)
    hessians, linear, big = dense_terms(w.shape[0])
    best = expected("optimum", 0, w.toarray(), big, linear, 0)
    x, _ = run(method, w, hessians, linear, [0.1] * 1500)
    np.testing.assert_allclose(x, best, rtol=0, atol=1e-10 * np.abs(best).max())
    np.testing.assert_allclose(fixed_point(method, w, hessians, linear, 0.1), best, rtol=0, atol=1e-12)
    gossip, _ = run(DSGD(), w, hessians, linear, [0.1] * 1500)
    assert np.abs(gossip - best).max() > 1e-2  # the data are heterogeneous


@pytest.mark.parametrize("method", EXACT, ids=str)
def test_a_learning_rate_that_changes_does_not_move_exact_methods_from_the_optimum(method):
    w = lazy("ring")
    hessians, linear, big = dense_terms(8)
    best = expected("optimum", 0, w.toarray(), big, linear, 0)
    x, _ = run(method, w, hessians, linear, [0.1] * 1500 + [0.01] * 3 + [0.08] * 3)
    np.testing.assert_allclose(x, best, rtol=0, atol=1e-9 * np.abs(best).max())


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("beta", "lr"), [(0.5, 0.05), (0.9, 0.02)])
def test_quasi_global_momentum_rests_where_dsgd_does(graph, beta, lr):
    w = lazy(graph)
    hessians, linear, big = dense_terms(w.shape[0])
    for nesterov, rate in ((False, lr), (True, lr * (1 + beta))):
        X = rest(w.toarray(), rate, w.toarray(), big, linear)
        method = QuasiGlobal(beta, nesterov=nesterov)
        x, _ = run(method, w, hessians, linear, [lr] * 4000)
        np.testing.assert_allclose(x, X, rtol=0, atol=1e-9 * np.abs(X).max())
        np.testing.assert_allclose(fixed_point(method, w, hessians, linear, lr), X, rtol=0, atol=1e-12)


LR, BETA = 0.1, 0.6


def two_step(first, second):
    """A recursion of X'' from X', X, G', G."""

    def go(W, g):
        xs = [np.zeros(g.shape[1:])]
        xs.append(first(W, xs[0], g[0]))
        for t in range(1, len(g)):
            xs.append(second(W, xs[t], xs[t - 1], g[t], g[t - 1]))
        return xs[-1]

    return go


def diffusion(V):
    return two_step(
        lambda W, x, g: V(W) @ (x - LR * g),
        lambda W, x1, x0, g1, g0: V(W) @ (2 * x1 - x0 - LR * (g1 - g0)),
    )


def tracking(atc, beta):
    def go(W, g):
        x, y, m = np.zeros(g.shape[1:]), g[0], g[0]
        for t in range(len(g)):
            x = W @ (x - LR * m) if atc else W @ x - LR * m
            if t + 1 < len(g):
                y = W @ y + g[t + 1] - g[t]
                m = beta * m + y
        return x

    return go


def quasi_global(mu, nesterov):
    def go(W, g):
        x, m = np.zeros(g.shape[1:]), np.zeros(g.shape[1:])
        for g_t in g:
            ahead = g_t + BETA * (g_t + BETA * m) if nesterov else g_t + BETA * m
            after = W @ (x - LR * ahead)
            m = mu * m + (1 - mu) * (x - after) / LR
            x = after
        return x

    return go


def slow(base_lr, every, beta, rate):
    def go(W, g):
        x, xs, u = np.zeros(g.shape[1:]), np.zeros(g.shape[1:]), np.zeros(g.shape[1:])
        for t, g_t in enumerate(g):
            x = W @ (x - base_lr * g_t)
            if (t + 1) % every == 0:
                u = beta * u + (xs - x.mean(0)) / base_lr
                xs = xs - rate * base_lr * u
                x = xs
        return x

    return go


RECURSIONS = {
    "D2": (D2(), diffusion(lambda W: W)),
    "exact diffusion": (ExactDiffusion(), diffusion(lambda W: (np.eye(len(W)) + W) / 2)),
    "EXTRA": (
        EXTRA(),
        two_step(
            lambda W, x, g: W @ x - LR * g,
            lambda W, x1, x0, g1, g0: x1 + W @ x1 - (x0 + W @ x0) / 2 - LR * (g1 - g0),
        ),
    ),
    "tracking": (GradientTracking(), tracking(True, 0.0)),
    "DSGT-HB": (GradientTracking(BETA), tracking(True, BETA)),
    "DIGing": (DIGing(), tracking(False, 0.0)),
    "DIGing with momentum": (DIGing(BETA), tracking(False, BETA)),
    "quasi-global": (QuasiGlobal(BETA), quasi_global(BETA, False)),
    "quasi-global, mu": (QuasiGlobal(BETA, mu=0.3), quasi_global(0.3, False)),
    "quasi-global, nesterov": (QuasiGlobal(BETA, nesterov=True), quasi_global(BETA, True)),
    "SlowMo": (SlowMo("dsgd", every=4, slow_momentum=0.7, slow_lr=0.9), slow(LR, 4, 0.7, 0.9)),
}


@pytest.mark.parametrize("name", RECURSIONS)
def test_each_is_the_recursion_of_its_paper(name):
    method, recursion = RECURSIONS[name]
    w, g = lazy("petersen"), gradients(10, 4, 30)
    found = play(method, w, g, LR).numpy()
    np.testing.assert_allclose(found, recursion(w.toarray(), g.numpy()), rtol=0, atol=1e-12)


def test_momentum_tracking_is_its_published_form():
    w, g = lazy("petersen"), gradients(10, 4, 30)
    W, zero = w.toarray(), np.zeros((10, 4))
    x, m, c = zero, zero, zero
    for g_t in g.numpy():
        m_before, m = m, BETA * m + g_t
        c = W @ (c - m_before) + m_before
        x = W @ x - LR * (m - c)
    found = play(MomentumTracking(BETA), w, g, LR).numpy()
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-12)


def test_what_is_tracked_beyond_the_own_gradient_has_mean_zero_in_every_round():
    comm, x = LocalComm(topologies.mixing_matrix(topologies.ring(6))), torch.zeros(6, 3, dtype=torch.float64)
    method = GradientTracking(0.5)
    state = method.init(x, comm)
    for t, g in enumerate(gradients(6, 3, 20)):
        x, state = method.step(x, state, g, comm.at(t), 0.1)
        torch.testing.assert_close(state.z.mean(0), torch.zeros(3, dtype=x.dtype), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("lr", "every", "where"),
    [(0.1, 1, -0.5), (0.1, 5, -0.3402661425), (0.1, 20, -0.0643252538), (0.01, 20, -0.4294424950)],
)
def test_local_sgd_rests_at_its_closed_form(lr, every, where):
    hessians, linear = np.array([[[1.0]], [[3.0]]]), np.array([[1.0], [-3.0]])  # a = 1, 3 and c = 1, -1
    w = topologies.mixing_matrix(topologies.complete(2))
    rounds = every * -(-4000 // every)
    x, _ = run(LocalSGD(every), w, hessians, linear, [lr] * rounds)
    np.testing.assert_allclose(x, where, rtol=0, atol=1e-9)


def test_local_sgd_rests_at_its_closed_form_in_many_dimensions():
    hessians, linear, _ = dense_terms(5)
    w, lr, every, eye = topologies.mixing_matrix(topologies.ring(5)), 0.1, 7, np.eye(D)
    T = [np.linalg.matrix_power(eye - lr * A, every) for A in hessians]
    c = [np.linalg.solve(A, r) for A, r in zip(hessians, linear, strict=True)]
    pulled = sum((eye - t) @ point for t, point in zip(T, c, strict=True)) / 5
    X = np.linalg.solve(eye - sum(T) / 5, pulled)
    x, _ = run(LocalSGD(every), w, hessians, linear, [lr] * every * 300)
    np.testing.assert_allclose(x, np.tile(X, (5, 1)), rtol=0, atol=1e-10)


def test_periodic_averaging_is_parallel_sgd_at_one_end_and_gossip_at_the_other():
    w, g = topologies.mixing_matrix(topologies.ring(7)), gradients(7, 3, 25)
    parallel = play(PmSGD(0.9), w, g)
    torch.testing.assert_close(play(GossipPGA(1, 0.9), w, g), parallel, rtol=0, atol=1e-12)
    torch.testing.assert_close(play(GossipPGA(99, 0.9), w, g), play(DmSGD(0.9), w, g), rtol=0, atol=0)
    torch.testing.assert_close(play(LocalSGD(1), w, g), play(PmSGD(0.0), w, g), rtol=0, atol=1e-12)
    x = play(GossipPGA(5, 0.9), w, g)  # 25 rounds: the last one averages
    torch.testing.assert_close(x, x.mean(0).expand(x.shape), rtol=0, atol=1e-14)


def test_diloco_is_adamw_inside_and_nesterov_outside():
    n, d, every, rounds, lr = 3, 5, 4, 20, 0.05
    g = gradients(n, d, rounds)
    method = DiLoCo(every=every, momentum=0.8, outer_lr=0.6, decay=0.1)
    found = play(method, topologies.mixing_matrix(topologies.ring(n)), g, lr)
    outer = torch.zeros(d, dtype=torch.float64, requires_grad=True)
    slow_step = torch.optim.SGD([outer], 0.6, momentum=0.8, nesterov=True)
    own = [torch.zeros(d, dtype=torch.float64, requires_grad=True) for _ in range(n)]
    adam = [torch.optim.AdamW([p], lr, weight_decay=0.1) for p in own]
    for t in range(rounds):
        for i in range(n):
            own[i].grad = g[t, i].clone()
            adam[i].step()
        if (t + 1) % every == 0:
            outer.grad = outer.detach() - sum(p.detach() for p in own) / n
            slow_step.step()
            for p in own:
                p.data.copy_(outer.data)
    torch.testing.assert_close(found, torch.stack([p.detach() for p in own]), rtol=0, atol=1e-12)


def test_slowmo_over_a_method_that_averages_and_without_slow_momentum_is_that_method():
    w, g = topologies.mixing_matrix(topologies.ring(6)), gradients(6, 3, 24)
    alone = play(PmSGD(0.9), w, g)
    torch.testing.assert_close(play(SlowMo("pmsgd", slow_momentum=0.0), w, g), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("base", [name for name in ALGORITHMS if name != "slowmo"])
def test_slowmo_takes_any_method(base):
    w, g = lazy("ring"), gradients(8, 3, 12)
    x = play(SlowMo(base), w, g, 0.01)
    torch.testing.assert_close(x, x[:1].expand(x.shape), rtol=0, atol=0)  # the twelfth round averages
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("value", [-0.9, -0.5, -0.1, 0.2, 0.7, 0.99])
def test_tracking_is_unstable_where_its_text_says(value):
    limits = {
        GradientTracking(): (1 - value**2) / -value if value < 0 else None,
        DIGing(): (1 + value) ** 2 / 2,
        MomentumTracking(0.0): (1 + value) ** 2 / 2,
    }
    for method, limit in limits.items():
        if limit is None:
            assert amplification(method, value, 1.99) < 1
        else:
            assert (
                amplification(method, value, 0.999 * limit) < 1 < amplification(method, value, 1.001 * limit)
            )


def test_d2_is_refused_at_an_eigenvalue_of_minus_a_third_and_below():
    for graph, weights, stable in (
        (topologies.ring(8), "metropolis", False),  # -1/3
        (topologies.grid(8), "metropolis", False),  # -0.384
        (topologies.ring(8), "lazy", True),
    ):
        schedule = topologies.constant(topologies.mixing_matrix(graph, weights))
        check = (schedule, 0.01, Quadratic(dimension=2), 0, 0.0)
        refuse_unstable(ExactDiffusion(), *check)
        if stable:
            refuse_unstable(D2(), *check)
        else:
            with pytest.raises(UserError, match=r"D2 needs every eigenvalue of W above -0.3333"):
                refuse_unstable(D2(), *check)


@pytest.mark.parametrize("method", [D2(), ExactDiffusion(), EXTRA(), GradientTracking()], ids=str)
def test_what_diverges_on_a_directed_ring_is_refused_and_does_diverge(method):
    w = (np.eye(8) + np.roll(np.eye(8), 1, 1)) / 2
    x = play(
        method, w, torch.zeros(400, 8, 1, dtype=torch.float64), 0.1, torch.eye(8, 1, dtype=torch.float64)
    )
    grows = bool(torch.linalg.norm(x - x.mean(0)) > 10)
    try:
        refuse_unstable(method, topologies.constant(w), 0.01, Quadratic(dimension=2), 0, 0.0)
        refused = False
    except UserError:
        refused = True
    assert refused == grows


def test_states_within_states_are_taken_apart_and_put_together():
    x = torch.arange(6.0).reshape(2, 3)
    state = SlowMo("decentlam").init(x, None)
    assert len(tensors_of(state)) == 3
    assert numbers_of(state) == [0.0, 0.0]
    again = with_numbers(with_tensors(state, [x + i for i in range(3)]), [0.5, 0.25])
    assert (again.inner.lr, again.lr) == (0.5, 0.25)
    assert torch.equal(again.inner.u, x)
    assert torch.equal(again.u, x + 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LocalSGD(0), "every = 0 must be at least 1"),
        (lambda: SlowMo("slowmo"), "base = 'slowmo' must be one of"),
        (lambda: SlowMo(slow_lr=0.0), "slow_lr = 0.0 must be positive"),
        (lambda: QuasiGlobal(mu=1.0), r"mu = 1.0 must be in \[0, 1\)"),
        (lambda: DiLoCo(beta2=1.0), r"beta2 = 1.0 must be in \[0, 1\)"),
        (lambda: DiLoCo(decay=-1.0), "decay = -1.0 must not be negative"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("width", [3, 10])
def test_the_round_loop_gives_what_plain_steps_give_however_it_cuts_the_columns(name, width, monkeypatch):
    # also: no state may lie in the memory of x, which the loop goes on using
    monkeypatch.setattr("decentral.rounds.advance.block_width", lambda h, d: width)
    settings = {"every": 4} if "every" in ALGORITHMS[name].__dataclass_fields__ else {}
    method, w, g = ALGORITHMS[name](**settings), lazy("ring"), gradients(8, 10, 14)
    comm = LocalComm(w, check=False)
    x = torch.zeros(8, 10, dtype=torch.float64)
    state = method.init(x, comm)
    for t, g_t in enumerate(g):
        blocks = [(slice(0, 7), g_t[:, :7].clone()), (slice(7, 10), g_t[:, 7:].clone())] if t % 2 else None
        x, state = advance(
            method, x, state, blocks or [(slice(0, 10), g_t.clone())], comm, t, 0.01 * (1 + t % 3)
        )
        x.data = x.clone()  # as where the parameters are bound elsewhere
    plain = play(method, w, g, [0.01 * (1 + t % 3) for t in range(14)])
    torch.testing.assert_close(x, plain, rtol=0, atol=1e-12)
