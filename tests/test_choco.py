"""CHOCO: against copies kept for each neighbour, its mean, its rate, where it rests."""

import numpy as np
import pytest
import torch
from linked_workers import LAYOUT, LOSSY, LRS, RING, UNEVEN, Senders, go, linked
from test_compression import layers
from test_methods import gradients, play
from test_methods_directed import through_the_loop

from decentral.algorithms import (
    CHOCO,
    DSGD,
)
from decentral.comm.compression import (
    QSGD,
    LowRank,
    RandomK,
    Sign,
    TopK,
)
from decentral.problems.quadratic import Quadratic
from decentral.rounds.trials.fixed_points import fixed_point


def test_choco_without_compression_is_dsgd():
    for w in (RING, UNEVEN):
        g = gradients(w.shape[0], 5, 40)
        torch.testing.assert_close(play(CHOCO(), w, g), play(DSGD(), w, g), rtol=0, atol=1e-13)
        less = 0.4 * w.toarray() + 0.6 * np.eye(w.shape[0])  # gamma = 0.4
        torch.testing.assert_close(play(CHOCO(0.4), w, g), play(DSGD(), less, g), rtol=0, atol=1e-13)


@pytest.mark.parametrize("w", [RING, UNEVEN], ids=["ring", "uneven"])
@pytest.mark.parametrize("compressor", LOSSY, ids=str)
def test_choco_is_that_of_workers_that_keep_a_copy_of_each_neighbour(compressor, w):
    n, gamma, W = w.shape[0], 0.3, w.toarray()
    g = gradients(n, LAYOUT.d, 30)
    comm = linked(w, compressor)
    found, _ = go(CHOCO(gamma), comm, g, LRS)
    x, senders = np.zeros((n, LAYOUT.d)), Senders(compressor, n)
    copies = {(i, j): np.zeros(LAYOUT.d) for i in range(n) for j in range(n) if W[i, j]}  # what i knows of j
    for t, g_t in enumerate(g.numpy()):
        y = x - LRS[t] * g_t
        q = senders.send([y[i] - copies[i, i] for i in range(n)], t)
        for i, j in copies:
            copies[i, j] = copies[i, j] + q[j]
        for i in range(n):
            x[i] = y[i] + gamma * sum(W[i, j] * (copies[i, j] - copies[i, i]) for j in range(n) if W[i, j])
    # power iteration enlarges differences of rounding
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-10 if isinstance(compressor, LowRank) else 1e-12)
    degree = (W != 0).sum(0) - 1
    assert np.array_equal(comm.ledger.bytes_sent, degree * senders.sizes)
    assert comm.ledger.messages == 30 * degree.sum()


@pytest.mark.parametrize("compressor", LOSSY, ids=str)
def test_choco_keeps_the_mean_whatever_is_lost(compressor):
    g, start = gradients(7, LAYOUT.d, 30), gradients(7, LAYOUT.d, 1, seed=1)[0]
    mean = start.mean(0)
    for x, g_t, lr in zip(go(CHOCO(0.3), linked(UNEVEN, compressor), g, LRS, start)[1], g, LRS, strict=True):
        mean = mean - lr * g_t.mean(0)
        torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("compressor", "gamma", "rounds"),
    [
        (TopK(0.2), 0.3, 240),
        (RandomK(0.3), 0.3, 240),
        (QSGD(15, 16), 0.8, 100),
        (Sign(), 0.3, 240),
        (LowRank(1), 0.3, 240),
    ],
    ids=str,
)
def test_consensus_of_choco_is_reached_at_a_linear_rate(compressor, gamma, rounds):
    start = gradients(6, LAYOUT.d, 1, seed=2)[0]
    still = torch.zeros(rounds, 6, LAYOUT.d, dtype=torch.float64)
    _, seen = go(CHOCO(gamma), linked(RING, compressor), still, 0.1, start)
    apart = [float((x - x.mean(0)).norm()) for x in (start, seen[rounds // 2], seen[-1])]
    first, second = np.log(apart[1] / apart[0]), np.log(apart[2] / apart[1])
    assert apart[2] < 1e-4 * apart[0]
    assert apart[2] > 1e-12 * apart[0]  # not yet where rounding ends it
    assert 0.6 < second / first < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("compressor", [TopK(0.2), RandomK(0.3), QSGD(15, 16), Sign(), LowRank(1)], ids=str)
def test_choco_rests_where_dsgd_does_with_so_much_less_mixing(compressor):
    gamma, lr, layout = 0.3, 0.3, layers((6, 5))
    hessians, linear = Quadratic(dimension=30, condition=2.0).linear_terms(6, 0)
    X = fixed_point(DSGD(), gamma * RING + (1 - gamma) * np.eye(6), hessians, linear, lr)
    H, r = torch.from_numpy(hessians), torch.from_numpy(linear)
    comm, x = linked(RING, compressor, layout), torch.zeros(6, 30, dtype=torch.float64)
    method = CHOCO(gamma)
    state = method.init(x, comm)
    for t in range(400):
        x, state = method.step(x, state, (H @ x.unsqueeze(-1)).squeeze(-1) - r, comm.at(t), lr)
    np.testing.assert_allclose(x, X, rtol=0, atol=1e-9 * np.abs(X).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_choco_in_blocks_of_columns_has_the_bits_of_one_block(dtype, monkeypatch):
    g = gradients(7, 11, 12).to(dtype)
    x, state, ledger = through_the_loop(CHOCO(0.5), UNEVEN, g, 11, monkeypatch)
    for width in (1, 4):
        again, cut_state, cut = through_the_loop(CHOCO(0.5), UNEVEN, g, width, monkeypatch)
        assert torch.equal(again, x)
        assert all(map(torch.equal, cut_state, state))
        assert np.array_equal(cut.bytes_sent, ledger.bytes_sent)
        assert cut.messages == ledger.messages
