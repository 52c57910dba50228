"""PowerGossip: power iteration on differences, alike at both ends of an edge."""

import numpy as np
import pytest
import torch
from linked_workers import (
    LAYOUT,
    LRS,
    RING,
    UNEVEN,
    go,
    layered,
)
from test_compression import layers
from test_methods import gradients, play

from decentral.algorithms import (
    DSGD,
    PowerGossip,
)


@pytest.mark.parametrize("w", [RING, UNEVEN], ids=["ring", "uneven"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_power_gossip_is_power_iteration_on_differences_that_are_formed(rank, w):
    n, shape, W, rounds = w.shape[0], (7, 5), w.toarray(), 25
    layout = layers(shape)
    comm, g = layered(w, layout), gradients(n, 35, rounds)
    method, zero = PowerGossip(rank), torch.zeros(n, 35, dtype=torch.float64)
    factors = method.init(zero, comm)
    found, _ = go(method, comm, g, LRS)
    ends = [tuple(edge) for edge in comm.edges_in.tolist()]
    right = {
        (i, j): factors.right[ends.index((j, i))].view(rank, 5).numpy().T for i, j in ends if i < j
    }  # (5, rank)
    for q in right.values():
        np.testing.assert_allclose(q.T @ q, np.eye(rank), atol=1e-12)
    left, x = {}, np.zeros((n, *shape))
    for t, g_t in enumerate(g.numpy()):
        y = x - LRS[t] * g_t.reshape(x.shape)
        x = y.copy()
        for i, j in right:
            apart = y[i] - y[j]
            if t % 2 == 0:
                p = apart @ right[i, j]
                low, left[i, j] = p @ right[i, j].T, np.linalg.qr(p)[0]
            else:
                q = apart.T @ left[i, j]
                low, right[i, j] = left[i, j] @ q.T, np.linalg.qr(q)[0]
            x[i] -= W[i, j] * low
            x[j] += W[i, j] * low
    np.testing.assert_allclose(found, x.reshape(n, 35), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_both_ends_of_an_edge_hold_the_same_factors_and_the_mean_is_kept(rank, dtype):
    for layout in (LAYOUT, layers((31, 7), (3,), (17, 29))):
        comm, g = layered(UNEVEN, layout), gradients(7, layout.d, 20).to(dtype)
        x = gradients(7, layout.d, 1, seed=1)[0].to(dtype)
        method = PowerGossip(rank)
        state, mean = method.init(x, comm), x.double().mean(0)
        ends = [tuple(edge) for edge in comm.edges_in.tolist()]
        other = [ends.index((j, i)) for i, j in ends]
        for t, g_t in enumerate(g):
            x, state = method.step(x, state, g_t, comm.at(t), 0.1)
            mean = mean - 0.1 * g_t.double().mean(0)
            assert torch.equal(state.left, state.left[other])
            assert torch.equal(state.right, state.right[other])
            atol = 1e-12 if dtype is torch.float64 else 1e-5
            torch.testing.assert_close(x.double().mean(0), mean, rtol=0, atol=atol)


@pytest.mark.parametrize("rank", [5, 8])
def test_with_a_rank_that_sends_matrices_whole_power_gossip_is_dsgd(rank):
    g = gradients(7, LAYOUT.d, 30)
    found, _ = go(PowerGossip(rank), layered(UNEVEN), g, LRS)
    torch.testing.assert_close(found, play(DSGD(), UNEVEN, g, LRS), rtol=0, atol=1e-13)
    unknown = play(PowerGossip(1), UNEVEN, g, LRS)  # where layers are not known all is one vector
    torch.testing.assert_close(unknown, play(DSGD(), UNEVEN, g, LRS), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rank", [1, 2])
def test_consensus_of_power_gossip_is_reached(rank):
    start, rounds = gradients(6, LAYOUT.d, 1, seed=2)[0], 160
    still = torch.zeros(rounds, 6, LAYOUT.d, dtype=torch.float64)
    _, seen = go(PowerGossip(rank), layered(RING), still, 0.1, start)
    apart = [float((x - x.mean(0)).norm()) for x in (start, seen[rounds // 2], seen[-1])]
    assert apart[1] < 0.2 * apart[0]
    assert apart[2] < 0.2 * apart[1]


@pytest.mark.parametrize("rank", [1, 2])
def test_power_gossip_sends_left_and_right_factors_in_turn(rank):
    comm, sent = layered(UNEVEN), []
    x = gradients(7, LAYOUT.d, 1)[0]
    method, degree = PowerGossip(rank), (UNEVEN.toarray() != 0).sum(0) - 1
    state = method.init(x, comm)
    for t in range(4):
        before = comm.ledger.bytes_sent
        x, state = method.step(x, state, torch.zeros_like(x), comm.at(t), 0.1)
        sent.append(comm.ledger.bytes_sent - before)
    for t in range(4):  # matrices (6, 5) and (4, 6), vectors of 6 and 4
        numbers = rank * ((6 + 4) if t % 2 == 0 else (5 + 6)) + 6 + 4
        assert np.array_equal(sent[t], degree * numbers * 8)
    assert comm.ledger.messages == 4 * degree.sum()


def test_workers_that_agree_stay_as_they_are_and_can_part_again():
    comm, method = layered(RING), PowerGossip(2)
    start = gradients(1, LAYOUT.d, 1, seed=3)[0].expand(6, -1).clone()
    x, state = start.clone(), method.init(start, comm)
    for t in range(5):
        x, state = method.step(x, state, torch.zeros_like(x), comm.at(t), 0.1)
        assert torch.equal(x, start)
        for factor, width in ((state.left, 6), (state.right, 5)):
            first = factor[:, : 2 * width].view(-1, 2, width)
            if factor is state.right or t > 0:
                gram = first @ first.transpose(1, 2)
                torch.testing.assert_close(gram, torch.eye(2, dtype=x.dtype).expand_as(gram))
    for t in range(5, 150):
        g = gradients(6, LAYOUT.d, 1, seed=4)[0] if t == 5 else torch.zeros_like(x)
        x, state = method.step(x, state, g, comm.at(t), 0.1)
    assert 0 < float((x - x.mean(0)).norm()) < 0.05


def test_differences_of_lower_rank_than_is_sent_do_no_harm():
    layout = layers((7, 5))
    comm, method = layered(RING, layout), PowerGossip(3)
    direction = torch.outer(torch.arange(7.0), torch.arange(5.0)).flatten().double()
    x = torch.arange(6.0, dtype=torch.float64)[:, None] * direction  # differences of rank one
    state, mean = method.init(x, comm), x.mean(0)
    for t in range(120):
        x, state = method.step(x, state, torch.zeros_like(x), comm.at(t), 0.1)
    assert x.isfinite().all()
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=1e-10)
    assert (x - x.mean(0)).norm() < 1e-6 * direction.norm()
