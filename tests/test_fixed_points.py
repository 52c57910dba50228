"""Each method rests where linear algebra says, on heterogeneous quadratics, to 1e-9 relative in float64."""

import networkx as nx
import numpy as np
import pytest
import torch

import topologies
from decentral.algorithms import DSGD, DecentLaM, DmSGD, PmSGD
from decentral.comm import LocalComm
from decentral.problems.quadratic import Quadratic

D = 4
GRAPHS = {
    "ring": topologies.ring(8),
    "torus": topologies.torus(16),
    "hypercube": topologies.hypercube(8),
    "petersen": nx.petersen_graph(),
}


def dense_terms(n, seed=0):
    hessians, linear = Quadratic(dimension=D, condition=2.0, heterogeneity=2.0).linear_terms(n, seed)
    big = np.zeros((n * D, n * D))
    for i in range(n):
        big[i * D : (i + 1) * D, i * D : (i + 1) * D] = hessians[i]
    return hessians, linear, big


def rest(before, rate, W, big, r):
    """Solve (I - W + rate B D) X = rate B r with dense numpy, B = ``before`` kron I."""
    n = len(W)
    B, Wk = np.kron(before, np.eye(D)), np.kron(W, np.eye(D))
    X = np.linalg.solve(np.eye(n * D) - Wk + rate * B @ big, rate * B @ r.reshape(-1))
    return X.reshape(n, D)


def iterate(method, w, hessians, linear, lr, rounds):
    comm = LocalComm(w)
    H, r = torch.from_numpy(hessians), torch.from_numpy(linear)
    x = torch.zeros(len(linear), D, dtype=torch.float64)
    state = method.init(x, comm)
    for t in range(rounds):
        g = (H @ x.unsqueeze(-1)).squeeze(-1) - r
        x, state = method.step(x, state, g, comm.at(t), lr)
    return x.numpy()


def expected(kind, beta, W, big, r, lr):
    n, eye = len(W), np.eye(len(W))
    if kind == "optimum":
        H = sum(big[i * D : (i + 1) * D, i * D : (i + 1) * D] for i in range(n)) / n
        return np.tile(np.linalg.solve(H, r.mean(0)), (n, 1))
    if kind == "doubly":
        return rest(W @ np.linalg.inv(eye - beta * W), lr, W, big, r)
    before = W if kind in ("atc", "atc-momentum") else eye
    return rest(before, lr / (1 - beta) if kind.endswith("momentum") else lr, W, big, r)


METHODS = [
    (lambda b: PmSGD(b), "optimum"),
    (lambda b: PmSGD(b, nesterov=True), "optimum"),
    (lambda b: DSGD(), "atc"),
    (lambda b: DSGD("awc"), "awc"),
    (lambda b: DecentLaM(b), "atc"),
    (lambda b: DmSGD(b), "atc-momentum"),
    (lambda b: DmSGD(b, "nesterov"), "atc-momentum"),
    (lambda b: DmSGD(b, "awc"), "awc-momentum"),
    (lambda b: DmSGD(b, "doubly-averaged"), "doubly"),
]


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("lr", "beta"), [(0.05, 0.5), (0.1, 0.8), (0.02, 0.9)])
@pytest.mark.parametrize("choice", range(len(METHODS)))
def test_the_steady_state_is_the_one_of_linear_algebra(graph, lr, beta, choice):
    make, kind = METHODS[choice]
    w = topologies.mixing_matrix(GRAPHS[graph], "metropolis")
    hessians, linear, big = dense_terms(w.shape[0])
    X = expected(kind, beta, w.toarray(), big, linear, lr)
    slowest = 0.5 * lr / (1 - (0 if kind in ("atc", "awc") and "DSGD" in str(make(beta)) else beta))
    x = iterate(make(beta), w, hessians, linear, lr, rounds=max(600, int(30 / slowest)))
    np.testing.assert_allclose(x, X, rtol=0, atol=1e-9 * np.abs(X).max())


def test_the_momentum_bias_is_there_and_decentlam_has_none_of_it():
    w = topologies.mixing_matrix(topologies.ring(8), "metropolis")
    _, linear, big = dense_terms(8)
    best = expected("optimum", 0.9, w.toarray(), big, linear, 0.01)

    def bias(kind, beta):
        return ((expected(kind, beta, w.toarray(), big, linear, 0.01) - best) ** 2).sum(1).mean()

    assert bias("atc-momentum", 0.9) > 10 * bias("atc", 0.9)


def test_the_closed_forms_that_runs_report_are_these():
    from decentral.rounds.trials.fixed_points import fixed_point

    w = topologies.mixing_matrix(topologies.ring(8), "metropolis")
    hessians, linear, big = dense_terms(8)
    for make, kind in METHODS:
        X = expected(kind, 0.8, w.toarray(), big, linear, 0.1)
        np.testing.assert_allclose(fixed_point(make(0.8), w, hessians, linear, 0.1), X, rtol=0, atol=1e-12)


def test_the_scalar_closed_form_of_equal_curvatures_holds_on_every_mode():
    # X_lam = e lam a / (1 - lam + e lam a) c_lam with e = lr / (1 - beta): fact sheet 1.5, by eigenvectors
    w = topologies.mixing_matrix(topologies.ring(8), "metropolis")
    values, vectors = np.linalg.eigh(w.toarray())
    c = np.random.default_rng(1).standard_normal((8, 1))
    a, lr, beta = 0.7, 0.05, 0.8
    e = lr / (1 - beta)
    X = vectors @ ((e * values * a / (1 - values + e * values * a))[:, None] * (vectors.T @ c))
    comm, x = LocalComm(w), torch.zeros(8, 1, dtype=torch.float64)
    method = DmSGD(beta)
    state = method.init(x, comm)
    for t in range(3000):
        x, state = method.step(x, state, a * (x - torch.from_numpy(c)), comm.at(t), lr)
    np.testing.assert_allclose(x.numpy(), X, atol=1e-12)
