"""Noisy gradients keep every method at a distance from the optimum: stationary variances against linear algebra.

f_i = a x^2 / 2 for every worker, so x* = 0, and each gradient has additive white noise of variance s2. On a mode lam
of a symmetric W a method is a small linear recursion s' = M s + B xi, written out here in numpy from its equations; its
stationary covariance C solves C = M C M' + s2 B B'. The floor (1/n) sum_i E|x_i|^2 is (1/n) sum_lam C_xx(lam), and the
part of it that is the mean's is C_xx(1) / n.
"""

import numpy as np
import pytest
import torch
from scipy.linalg import orth, solve_discrete_lyapunov

import topologies
from decentral.algorithms import (
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
    QuasiGlobal,
)
from decentral.comm import LocalComm

N, LR, A, S2, BETA = 8, 0.1, 1.0, 1.0, 0.7
Q = 1 - LR * A
ERRORS = 5  # standard errors that a sampled floor may be off


def heavy_ball(before, descent):
    """m' = beta m + g;    x' = before x - descent m', on (x, m)."""
    M = np.array([[before - descent * A, -descent * BETA], [A, BETA]])
    return M, np.array([-descent, 1.0])


def tracking(before, descent, lam, beta):
    """y' = lam y + g - g_prev;    m' = beta m + y';    x' = before x - descent m', on (x, m, y, g_prev)."""
    y, m = np.array([A, 0.0, lam, -1.0]), np.array([A, beta, lam, -1.0])
    x = np.array([before, 0.0, 0.0, 0.0]) - descent * m
    return np.stack([x, m, y, [A, 0.0, 0.0, 0.0]]), np.array([-descent, 1.0, 1.0, 1.0])


def two_step(now, past, descent):
    """x'' = now x' - past x - descent (g' - g), on (x', x, g)."""
    M = np.array([[now - descent * A, -past, descent], [1.0, 0.0, 0.0], [A, 0.0, 0.0]])
    return M, np.array([-descent, 0.0, 1.0])


def nesterov(lam):
    """m' = beta m + g;    x' = lam (x - lr (g + beta m')), on (x, m)."""
    M = np.array([[lam * (1 - LR * A * (1 + BETA)), -lam * LR * BETA**2], [A, BETA]])
    return M, np.array([-lam * LR * (1 + BETA), 1.0])


def doubly_averaged(lam):
    """u = beta m + g;    x' = lam (x - lr u);    m' = lam u, on (x, m)."""
    M = np.array([[lam * Q, -lam * LR * BETA], [lam * A, lam * BETA]])
    return M, np.array([-lam * LR, lam])


def decentlam(lam):
    """z = x - lr g;    m' = beta m + (x - lam z) / lr;    x' = x - lr m', on (x, m)."""
    moved = (1 - lam * Q) / LR
    return np.array([[1 - LR * moved, -LR * BETA], [moved, BETA]]), np.array([-lam * LR, lam])


def quasi_global(lam):
    """x' = lam (x - lr (g + beta m));    m' = beta m + (1 - beta) (x - x') / lr, on (x, m)."""
    x, noise = np.array([lam * Q, -lam * LR * BETA]), -lam * LR
    m = BETA * np.array([0.0, 1.0]) + (1 - BETA) / LR * (np.array([1.0, 0.0]) - x)
    return np.stack([x, m]), np.array([noise, -(1 - BETA) / LR * noise])


def momentum_tracking(lam):
    """m' = beta m + g;    x' = lam x - lr (m' - c);    c' = lam (c - m') + m', on (x, m, c)."""
    m, c = np.array([A, BETA, 0.0]), np.array([0.0, 0.0, 1.0])
    M = np.stack([np.array([lam, 0.0, 0.0]) - LR * (m - c), m, lam * (c - m) + m])
    return M, np.array([-LR, 1.0, 1 - lam])


def parallel(lam):
    """Heavy ball on the mean; the averaged gradient has nothing of the other modes."""
    M, B = heavy_ball(1.0, LR)
    return M, B * np.isclose(lam, 1)


CASES = {
    "PmSGD": (PmSGD(BETA), parallel),
    "DSGD": (DSGD(), lambda lam: (np.array([[lam * Q]]), np.array([-lam * LR]))),
    "DSGD awc": (DSGD("awc"), lambda lam: (np.array([[lam - LR * A]]), np.array([-LR]))),
    "DmSGD": (DmSGD(BETA), lambda lam: heavy_ball(lam, lam * LR)),
    "DmSGD awc": (DmSGD(BETA, "awc"), lambda lam: heavy_ball(lam, LR)),
    "DmSGD nesterov": (DmSGD(BETA, "nesterov"), nesterov),
    "DmSGD doubly-averaged": (DmSGD(BETA, "doubly-averaged"), doubly_averaged),
    "DecentLaM": (DecentLaM(BETA), decentlam),
    "quasi-global": (QuasiGlobal(BETA), quasi_global),
    "D2": (D2(), lambda lam: two_step(2 * lam, lam, lam * LR)),
    "exact diffusion": (ExactDiffusion(), lambda lam: two_step(1 + lam, (1 + lam) / 2, (1 + lam) / 2 * LR)),
    "EXTRA": (EXTRA(), lambda lam: two_step(1 + lam, (1 + lam) / 2, LR)),
    "gradient tracking": (GradientTracking(), lambda lam: tracking(lam, lam * LR, lam, 0.0)),
    "DSGT-HB": (GradientTracking(BETA), lambda lam: tracking(lam, lam * LR, lam, BETA)),
    "DIGing": (DIGing(), lambda lam: tracking(lam, LR, lam, 0.0)),
    "momentum tracking": (MomentumTracking(BETA), momentum_tracking),
}


def mixing(name="DSGD"):
    """Ring of 8 with weights 1/3; lazy for D2, which is unstable at its eigenvalue -1/3."""
    return topologies.mixing_matrix(topologies.ring(N), "lazy" if name == "D2" else "metropolis")


def modes(w):
    return np.linalg.eigvalsh(w.toarray())


def stationary(M, B):
    """(variance of x, spectral radius), of the states that noise can reach: conserved ones stay zero."""
    reached = orth(np.column_stack([np.linalg.matrix_power(M, k) @ B for k in range(len(M))]), rcond=1e-9)
    if not reached.size:
        return 0.0, 0.0
    M, B = reached.T @ M @ reached, reached.T @ B
    C = solve_discrete_lyapunov(M, S2 * np.outer(B, B))
    return (reached @ C @ reached.T)[0, 0], np.abs(np.linalg.eigvals(M)).max()


def floors(name):
    """(floor, the mean's part of it, spectral radius) from the recursions of a case."""
    solved = [
        stationary(*CASES[name][1](lam)) for lam in modes(mixing(name))
    ]  # ascending: the last mode is 1
    variances, radii = zip(*solved, strict=True)
    return sum(variances) / N, variances[-1] / N, max(radii)


def rounds(method, w, noise, curvature=A):
    """x (n, d) after each round with gradients curvature x + noise, from zero."""
    comm, x = LocalComm(w), torch.zeros(noise(0).shape, dtype=torch.float64)
    state, t = method.init(x, comm), 0
    while True:
        x, state = method.step(x, state, noise(t).add(x * curvature), comm.at(t), LR)
        yield x
        t += 1


def white(d, seed=0):
    rng = np.random.default_rng(seed)
    return lambda t: torch.from_numpy(rng.standard_normal((N, d)) * S2**0.5)


def assert_sampled(columns, expected):
    """Columns are independent and alike, so the standard error of their mean is their deviation / sqrt(d)."""
    error = float(columns.std()) / len(columns) ** 0.5
    assert error < 0.01 * expected  # fine enough to tell
    assert abs(float(columns.mean()) - expected) < ERRORS * error


def test_the_floor_of_dsgd_is_its_closed_form():
    lam = modes(mixing())
    total = (LR**2 * lam**2 * S2 / (1 - lam**2 * (1 - LR * A) ** 2)).sum() / N
    mean = LR * S2 / (N * A * (2 - LR * A))
    assert total == pytest.approx(0.0104905008, abs=5e-11)
    assert mean == pytest.approx(0.0065789474, abs=5e-11)
    np.testing.assert_allclose(floors("DSGD")[:2], (total, mean), rtol=1e-12)


def test_on_every_mode_momentum_has_the_variance_of_a_second_order_autoregression():
    # x'' = p x' + q x + noise has the variance (1 - q) / ((1 + q) ((1 - q)^2 - p^2)) times the noise's
    for lam in modes(mixing()):
        p = lam * Q + BETA
        for name, q in (("DmSGD", -BETA * lam), ("DecentLaM", -BETA)):
            variance = (lam * LR) ** 2 * S2 * (1 - q) / ((1 + q) * ((1 - q) ** 2 - p**2))
            assert stationary(*CASES[name][1](lam))[0] == pytest.approx(variance, rel=1e-10, abs=1e-16)


def test_all_methods_without_momentum_have_the_floor_of_sgd_in_their_mean_and_with_it_that_of_momentum_sgd():
    plain = LR * S2 / (N * A * (2 - LR * A))
    momentum = LR * S2 * (1 + BETA) / (N * A * (1 - BETA) * (2 * (1 + BETA) - LR * A))
    different = {"DmSGD nesterov", "quasi-global"}
    for name, (method, _) in CASES.items():
        if name not in different:
            expected = momentum if getattr(method, "momentum", 0) else plain
            assert floors(name)[1] == pytest.approx(expected, rel=1e-10), name


@pytest.mark.parametrize("name", CASES)
def test_the_floor_is_the_energy_of_the_response_to_one_noisy_gradient(name):
    # a linear method's stationary variance: all past noise, each as far as the method still remembers it
    floor, mean, radius = floors(name)
    assert radius < 1
    once, never = torch.eye(N, dtype=torch.float64) * S2**0.5, torch.zeros(N, N, dtype=torch.float64)
    play = rounds(CASES[name][0], mixing(name), lambda t: never if t else once)
    found = np.zeros(2)
    for _ in range(int(np.log(1e-14) / (2 * np.log(radius)))):
        x = next(play)
        found += float((x**2).sum()) / N, float((x.mean(0) ** 2).sum())
    np.testing.assert_allclose(found, (floor, mean), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_noise_keeps_a_method_at_its_floor(name):
    floor, mean, radius = floors(name)
    play = rounds(CASES[name][0], mixing(name), white(d=10_000))
    for _ in range(int(np.log(1e-5) / (2 * np.log(radius)))):  # what is short of the floor is 1e-5 of it
        next(play)
    seen, seen_mean, window = 0.0, 0.0, 60
    for _ in range(window):
        x = next(play)
        seen, seen_mean = seen + (x**2).mean(0) / window, seen_mean + x.mean(0) ** 2 / window
    assert_sampled(seen, floor)
    assert_sampled(seen_mean, mean)


@pytest.mark.parametrize("every", [1, 4, 15])
def test_local_sgd_just_after_an_average_is_at_the_floor_of_its_closed_form(every):
    # between averages T_i = (1 - lr a_i)^every, and worker i gathers lr^2 s2 sum_{k < every} (1 - lr a_i)^2k
    a = np.linspace(0.5, 4.0, N)
    q = 1 - LR * a
    gathered = LR**2 * S2 * (1 - q ** (2 * every)) / (1 - q**2)
    T = (q**every).mean()
    expected = gathered.mean() / N / (1 - T**2)
    play = rounds(LocalSGD(every), mixing(), white(d=40_000), torch.from_numpy(a)[:, None])
    for _ in range(every * int(2 + np.log(1e-5) / (2 * np.log(T)))):
        x = next(play)
    assert torch.equal(x, x[:1].expand(x.shape))
    assert_sampled(x[0] ** 2, expected)


def test_between_averages_of_gossip_pga_differences_grow_from_nothing_towards_those_of_dsgd():
    # on a mode apart from the mean, k rounds after an average: lr^2 lam^2 s2 (1 - p^2k) / (1 - p^2), p = lam (1 - lr a)
    every, lam = 6, modes(mixing())[:-1]
    p2 = (lam * Q) ** 2
    mean = LR * S2 / (N * A * (2 - LR * A))
    play = rounds(GossipPGA(every), mixing(), white(d=20_000))
    for _ in range(10 * every):
        next(play)
    for k in (*range(1, every), 0):
        x = next(play)
        apart = (LR**2 * lam**2 * S2 * (1 - p2**k) / (1 - p2)).sum() / N
        assert_sampled((x**2).mean(0), mean + apart)
        assert (float((x - x.mean(0)).abs().max()) < 1e-15) == (k == 0)
