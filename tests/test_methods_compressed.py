"""Compression on links: CHOCO, compressed gradients and gossip against copies kept by hand; PowerGossip; the bytes."""

import itertools

import numpy as np
import pytest
import torch
from command import decentral, metrics, read_csv, write
from test_compression import layers
from test_methods import gradients, play
from test_methods_directed import CHANGING, digraph, push, refused, through_the_loop
from test_methods_relay import check_that_resuming_changes_nothing

import topologies
from decentral.algorithms import (
    ALGORITHMS,
    CHOCO,
    DSGD,
    DIGing,
    LocalSGD,
    PmSGD,
    PowerGossip,
    PushSum,
    SlowMo,
)
from decentral.comm import LocalComm
from decentral.comm.links import Links
from decentral.compression import (
    LINKS,
    QSGD,
    AdaComp,
    ErrorFeedback,
    Layout,
    LowRank,
    MomentumCorrection,
    RandomK,
    Sign,
    Span,
    TopK,
)
from decentral.link_config import Compression
from decentral.problems.quadratic import Quadratic
from decentral.requirements import unmet
from decentral.rounds import advance
from decentral.streams import stream
from decentral.theory import fixed_point

LAYOUT = layers((6, 5), (6,), (4, 3, 2), (4,))
LOSSY = [TopK(0.2), RandomK(0.3), QSGD(7, 16), Sign(), LowRank(1)]
UNBIASED = [QSGD(7, 16), RandomK(0.3, unbiased=True)]
SEED = 4


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty folder to stand in; runs end without figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("decentral.run._show", lambda folder: None)
    return tmp_path


def linked(mixing, compressor, layout=LAYOUT):
    """All workers, on links that compress."""
    comm = LocalComm(mixing)
    comm.layout = layout
    comm.links = Links(compressor, layout, SEED, comm.rows)
    return comm


def go(method, comm, g, lrs, start=None):
    """x, and the states after each round."""
    x = torch.zeros(g.shape[1:], dtype=g.dtype) if start is None else start.clone()
    state, seen = method.init(x, comm), []
    for t, g_t in enumerate(g):
        x, state = method.step(x, state, g_t.clone(), comm.at(t), lrs if isinstance(lrs, float) else lrs[t])
        seen.append(x.clone())
    return x, seen


class Senders:
    """n senders of one vector a round, their compressors called by hand; receivers decode the packets."""

    def __init__(self, compressor, n, layout=LAYOUT, call=0):
        self.compressor, self.layout, self.call = compressor, layout, call
        self.states = [compressor.init(torch.zeros(layout.d, dtype=torch.float64), layout) for _ in range(n)]
        self.sizes = np.zeros(n, dtype=np.int64)

    def send(self, rows, t):
        """What any receiver makes of rows (n, d)."""
        received = []
        for i, row in enumerate(rows):
            given = torch.from_numpy(np.array(row))
            packet, _, self.states[i] = self.compressor.encode(
                given, self.states[i], self.layout, self.draw(i, t)
            )
            self.sizes[i] += len(packet)
            received.append(self.compressor.decode(packet, self.layout, given.dtype, self.draw(i, t)).numpy())
        return np.stack(received)

    def draw(self, worker, t):
        return stream(SEED, "compression", worker, self.call, t)


def lazy(graph):
    return topologies.mixing_matrix(graph, "lazy")


RING, UNEVEN = lazy(topologies.ring(6)), lazy(topologies.erdos_renyi(7, p=0.5, seed=3))
LRS = [0.1 * (1 + t % 3) for t in range(30)]


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


def test_links_keep_a_state_and_a_stream_for_each_vector_of_a_round():
    links, n = Links(LowRank(1), LAYOUT, SEED, range(2, 5)), 3
    both = [Senders(LowRank(1), 5, call=call) for call in (0, 1)]
    for t in range(4):
        here = links.at(t)
        for call, senders in enumerate(both):
            rows = gradients(5, LAYOUT.d, 1, seed=10 * t + call)[0]
            sent = here.encode(rows[2:])
            expected = senders.send(rows.numpy(), t)[2:]
            assert np.array_equal(sent.rows.numpy(), expected)
            for k in range(n):
                assert np.array_equal(sent.decode(2 + k, sent.packets[k]).numpy(), expected[k])
    assert links.counts[""].tolist() == [8 * n * LAYOUT.d * 8, sum(s.sizes[2:].sum() for s in both)]
    assert links.take_counts()[""].any()
    assert not links.counts[""].any()
    with pytest.raises(ValueError, match="need to know the round"):
        links.encode(torch.zeros(3, LAYOUT.d))


@pytest.mark.parametrize("compressor", [TopK(0.2), Sign(), LowRank(1), QSGD(), AdaComp(3, 7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_a_worker_sends_does_not_depend_on_who_else_is_hosted_with_it(compressor, dtype):
    # BLAS's last bits depend on where in memory a row begins
    for layout in (LAYOUT, layers((31, 7), (3,), (17, 29)), layers((5,), (44, 13))):
        x = gradients(8, layout.d, 1)[0].to(dtype)
        whole = Links(compressor, layout, SEED, range(8)).at(0).encode(x)
        for start in range(1, 8):
            part = Links(compressor, layout, SEED, range(start, 8)).at(0).encode(x[start:].clone())
            assert torch.equal(part.rows, whole.rows[start:])
            assert all(map(torch.equal, part.packets, whole.packets[start:]))


@pytest.mark.parametrize("name", ["top-k", "random-k", "qsgd", "sign", "adacomp", "low-rank", "dgc"])
def test_what_is_sent_does_not_depend_on_the_number_of_threads(name):
    layout = Layout((Span(0, 280_000, (700, 400), "dense"), Span(280_000, 300_000, (20_000,), "other")))
    x = torch.randn(2, layout.d, generator=torch.Generator().manual_seed(7))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            links = Links(LINKS[name](), layout, 0, range(2))
            sent = [links.at(t).encode(x * (t + 1)) for t in range(3)]
            assert torch.get_num_threads() == threads
            found.append([part for one in sent for part in (*one.packets, one.rows)])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("compressor", "feedback"),
    [*((c, True) for c in (TopK(0.2), RandomK(0.3), Sign(), LowRank(1))), (QSGD(7, 16), False), (Sign(), False)],
    ids=str,
)  # fmt: skip
def test_pmsgd_goes_by_the_mean_of_the_decoded_packets(compressor, feedback, nesterov):
    n, W = 5, np.full((5, 5), 1 / 5)
    g = gradients(n, LAYOUT.d, 30)
    comm = linked(W, ErrorFeedback(compressor) if feedback else compressor)
    found, _ = go(PmSGD(0.8, nesterov), comm, g, LRS)
    x, m, e, senders = np.zeros(LAYOUT.d), 0.0, np.zeros((n, LAYOUT.d)), Senders(compressor, n)
    for t, g_t in enumerate(g.numpy()):
        received = senders.send(e + g_t, t)
        if feedback:
            e = e + g_t - received
        m = 0.8 * m + received.mean(0)
        x = x - LRS[t] * (received.mean(0) + 0.8 * m if nesterov else m)
    np.testing.assert_allclose(found, np.tile(x, (n, 1)), rtol=0, atol=1e-12)
    assert np.array_equal(comm.ledger.bytes_sent, (n - 1) * senders.sizes)
    assert comm.ledger.messages == 30 * n * (n - 1)


@pytest.mark.parametrize("compressor", [AdaComp(3, 7), MomentumCorrection(TopK(0.2), 0.9)], ids=str)
def test_compressors_with_a_residue_of_their_own_are_called_once_a_round(compressor):
    n = 4
    g = gradients(n, LAYOUT.d, 30)
    comm = linked(np.full((n, n), 1 / n), compressor)
    found, _ = go(PmSGD(0.0), comm, g, LRS)
    x, senders = np.zeros(LAYOUT.d), Senders(compressor, n)
    for t, g_t in enumerate(g.numpy()):
        x = x - LRS[t] * senders.send(g_t, t).mean(0)
    np.testing.assert_allclose(found, np.tile(x, (n, 1)), rtol=0, atol=1e-12)
    assert np.array_equal(comm.ledger.bytes_sent, (n - 1) * senders.sizes)


@pytest.mark.parametrize("variant", ["atc", "awc"])
@pytest.mark.parametrize("compressor", UNBIASED, ids=str)
def test_gossip_of_compressed_models_adds_what_neighbours_differ_by(compressor, variant):
    W, n = UNEVEN.toarray(), 7
    g = gradients(n, LAYOUT.d, 20)
    comm = linked(UNEVEN, compressor)
    found, _ = go(DSGD(variant), comm, g, LRS[:20])
    x, senders, eye = np.zeros((n, LAYOUT.d)), Senders(compressor, n), np.eye(n)
    for t, g_t in enumerate(g.numpy()):
        z = x - LRS[t] * g_t if variant == "atc" else x
        x = z + (W - eye) @ senders.send(z, t)
        if variant == "awc":
            x = x - LRS[t] * g_t
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-12)
    degree = (W != 0).sum(0) - 1
    assert np.array_equal(comm.ledger.bytes_sent, degree * senders.sizes)
    assert comm.ledger.messages == 20 * degree.sum()


@pytest.mark.parametrize("compressor", UNBIASED, ids=str)
def test_compressed_gossip_keeps_means_tracked_gradients_and_pushed_mass(compressor):
    g = gradients(6, LAYOUT.d, 20)
    total = torch.zeros(LAYOUT.d, dtype=torch.float64)
    comm, x = linked(RING, compressor), torch.zeros(6, LAYOUT.d, dtype=torch.float64)
    state = DIGing().init(x, comm)
    pushed = linked(push(digraph(6, 6)), compressor)
    u, w = torch.zeros_like(x), PushSum().init(x, pushed)
    for t, g_t in enumerate(g):
        x, state = DIGing().step(x, state, g_t, comm.at(t), 0.1)
        u, w = PushSum().step(u, w, g_t, pushed.at(t), 0.1)
        total = total - 0.1 * g_t.sum(0)
        torch.testing.assert_close(state.z.sum(0), torch.zeros_like(total), rtol=0, atol=1e-12)
        torch.testing.assert_close(x.sum(0), total, rtol=0, atol=1e-12)
        torch.testing.assert_close((w.w * u).sum(0), total, rtol=0, atol=1e-12)
    weights = np.array([6.0])  # one number a worker travels with each packet and is not compressed
    degree = np.array([digraph(6, 6).out_degree(i) for i in range(6)])
    packets = pushed.ledger.bytes_sent - 20 * degree * 8 * len(weights)
    assert np.array_equal(packets % degree, np.zeros(6))
    assert pushed.ledger.messages == 20 * degree.sum()


def test_compressed_gossip_works_on_graphs_that_change():
    g, schedule = gradients(4, LAYOUT.d, 12), topologies.cyclic(CHANGING)
    comm = linked(schedule, QSGD(7, 16))
    found, _ = go(PushSum(), comm, g, 0.1)
    x, w, senders = np.zeros((4, LAYOUT.d)), np.ones((4, 1)), Senders(QSGD(7, 16), 4)
    sent = np.zeros(4)
    for t, g_t in enumerate(g.numpy()):
        P, z, before = schedule.matrix(t).toarray(), w * x - 0.1 * g_t, senders.sizes.copy()
        w_after = P @ w
        x = (z + (P - np.eye(4)) @ senders.send(z, t)) / w_after
        w = w_after
        sent += ((P != 0).sum(0) - 1) * (senders.sizes - before + 8)
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-12)
    assert np.array_equal(comm.ledger.bytes_sent, sent)


def test_averages_of_compressed_models_are_those_of_the_packets():
    comm, g = linked(RING, QSGD(7, 16)), gradients(6, LAYOUT.d, 2)
    found, _ = go(LocalSGD(2, 0.0), comm, g, 0.1)
    z = -0.1 * (g[0] + g[1]).numpy()
    senders = Senders(QSGD(7, 16), 6)
    np.testing.assert_allclose(found, np.tile(senders.send(z, 1).mean(0), (6, 1)), rtol=0, atol=1e-14)
    assert np.array_equal(comm.ledger.bytes_sent, 5 * senders.sizes)


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


@pytest.mark.parametrize("compressor", [TopK(0.2), LowRank(1)], ids=str)
def test_the_round_loop_hands_links_and_power_gossip_whole_vectors(compressor, monkeypatch):
    monkeypatch.setattr("decentral.rounds.block_width", lambda h, d: 7)
    g = gradients(6, LAYOUT.d, 5)
    for method, comm, plain in (
        (CHOCO(0.3), linked(RING, compressor), linked(RING, compressor)),
        (PowerGossip(1), layered(RING), layered(RING)),
    ):
        x = torch.zeros(6, LAYOUT.d, dtype=torch.float64)
        state = method.init(x, comm)
        for t, g_t in enumerate(g):
            parts = [(slice(a, b), g_t[:, a:b].clone()) for a, b in ((0, 20), (20, 50), (50, LAYOUT.d))]
            x, state = advance(method, x, state, parts, comm, t, 0.1)
        assert torch.equal(x, go(method, plain, g, 0.1)[0])
        assert np.array_equal(comm.ledger.bytes_sent, plain.ledger.bytes_sent)


# PowerGossip


def layered(mixing, layout=LAYOUT):
    comm = LocalComm(mixing)
    comm.layout = layout
    return comm


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


# What a run's table says


def chosen(method, **table):
    return Compression.from_table(table, method)


def test_error_feedback_is_around_biased_compressors_of_gradients_unless_said_otherwise():
    for name in ("top-k", "random-k", "sign", "low-rank"):
        assert isinstance(chosen(PmSGD(), name=name).compressor(), ErrorFeedback)
        assert chosen(PmSGD(), name=name).resolved()["error_feedback"] is True
        assert not chosen(PmSGD(), name=name, error_feedback=False).error_feedback
        assert not chosen(CHOCO(0.1), name=name).error_feedback
    for method in (PmSGD(), DSGD(), CHOCO(0.1)):
        assert chosen(method, name="qsgd").compressor() == QSGD()
    for method in (PmSGD(), DSGD()):
        assert chosen(method, name="random-k", unbiased=True).compressor() == RandomK(unbiased=True)
    assert isinstance(chosen(PmSGD(), name="qsgd", error_feedback=True).compressor(), ErrorFeedback)
    assert chosen(PmSGD(0.0), name="dgc").compressor() == MomentumCorrection(TopK(0.001), 0.9)
    assert chosen(PmSGD(), name="adacomp").compressor() == AdaComp()
    assert chosen(PmSGD()) is None
    assert chosen(PmSGD(), name="none") is None


MODELS = [
    "dsgd", "dmsgd", "decentlam", "quasi-global", "d2", "extra", "gradient-tracking", "diging", "local-sgd",
    "gossip-pga", "slowmo", "diloco", "push-sum", "push-diging",
]  # fmt: skip
REFUSALS = {
    **{f"top-k of {name}": ({"name": name}, {"name": "top-k"}, "sends models; use an unbiased") for name in MODELS},
    "sign of models": ({"name": "dsgd"}, {"name": "sign"}, "or algorithm.name = choco"),
    "dgc of models": ({"name": "dsgd"}, {"name": "dgc"}, "or pmsgd, which sends gradients"),
    "feedback of models": (
        {"name": "dsgd"}, {"name": "qsgd", "error_feedback": True}, "set compression.error_feedback = false",
    ),
    "feedback of differences": (
        {"name": "choco"}, {"name": "top-k", "error_feedback": True}, "set compression.error_feedback = false",
    ),
    "residues of differences": ({"name": "choco"}, {"name": "adacomp"}, "use algorithm.name = pmsgd"),
    "dgc of differences": ({"name": "choco"}, {"name": "dgc"}, "CHOCO sends it again itself; use top-k"),
    "links of its own": ({"name": "relay-sgd"}, {"name": "qsgd"}, "RelaySGD has links of its own; remove"),
    "factors": ({"name": "power-gossip"}, {"name": "top-k"}, "PowerGossip has links of its own; remove"),
    "momentum twice": ({"name": "pmsgd"}, {"name": "dgc"}, "has momentum itself and algorithm.momentum = 0.9"),
    "feedback twice": (
        {"name": "pmsgd", "momentum": 0.0}, {"name": "dgc", "error_feedback": True}, "has error feedback already",
    ),
    "residues twice": ({"name": "pmsgd"}, {"name": "adacomp", "error_feedback": True}, "adacomp keeps a residue"),
    "feedback of what overshoots": (
        {"name": "pmsgd"}, {"name": "random-k", "unbiased": True, "error_feedback": True}, "set unbiased = false",
    ),
    "feedback of coarse levels": (
        {"name": "pmsgd"}, {"name": "qsgd", "levels": 1, "error_feedback": True}, "may enlarge the error",
    ),
    "differences that would grow": (
        {"name": "choco"}, {"name": "random-k", "unbiased": True}, "CHOCO feeds errors back: random-k with unbiased",
    ),
    "unknown": ({"name": "choco"}, {"name": "topk"}, "compression.name = 'topk' is not known; did you mean 'top-k'?"),
    "unknown key": ({"name": "choco"}, {"name": "top-k", "rank": 2}, "unknown key compression.rank of top-k"),
    "key of none": ({"name": "choco"}, {"name": "none", "rank": 2}, "unknown key compression.rank of none"),
    "no name": ({"name": "choco"}, {"fraction": 0.1}, "missing key compression.name"),
    "fraction 0": ({"name": "choco"}, {"name": "top-k", "fraction": 0.0}, "fraction = 0.0 must be above 0"),
    "text for a switch": (
        {"name": "pmsgd"}, {"name": "top-k", "error_feedback": "yes"}, "error_feedback = 'yes' should be true or false",
    ),
    "gamma 0": ({"name": "choco", "gamma": 0.0}, {"name": "top-k"}, "gamma = 0.0 must be above 0 and at most 1"),
    "gamma 2": ({"name": "choco", "gamma": 2.0}, {"name": "top-k"}, "gamma = 2.0 must be above 0 and at most 1"),
    "rank 0": ({"name": "power-gossip", "rank": 0}, {}, "rank = 0 must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_compressed_is_refused_with_the_remedy(home, case):
    algorithm, compression, complaint = REFUSALS[case]
    assert complaint in refused(home, algorithm=algorithm, compression=compression)


@pytest.mark.parametrize("name", ["choco", "power-gossip"])
def test_graphs_on_which_a_sum_of_copies_would_be_wrong_are_refused(home, name):
    said = refused(home, topology={"name": "one-peer-hypercube", "workers": 4}, algorithm={"name": name})
    assert "needs the same W in every round" in said
    said = refused(home, topology={"name": "exponential", "workers": 8}, algorithm={"name": name})
    assert "needs a symmetric W" in said


def test_what_cannot_be_compiled_or_has_no_rounds_is_refused(home):
    for changes in (
        {"algorithm": {"name": "dsgd"}, "compression": {"name": "qsgd"}},
        {"algorithm": {"name": "power-gossip"}},
        {"algorithm": {"name": "push-sum"}},
    ):
        said = refused(home, train={"compile": True}, **changes)
        assert "train.compile = true is for methods of arithmetic, mixing and means alone" in said
    said = refused(home, stages={"count": 2}, program={"name": "backprop"}, compression={"name": "top-k"})
    assert "section [compression] has no meaning where there is [stages]" in said


MLP = {"name": "mlp", "data": "digits", "hidden": [8]}
PARAMETERS = 64 * 8 + 8 + 8 * 10 + 10
PACKETS = {  # bytes, from the formulas of tests/test_compression.py
    "top-k": (
        {"name": "top-k", "fraction": 0.05},
        30 * 4 + 30 * 2,
    ),  # 610 entries: 30 of them, at 2-byte places
    "random-k": ({"name": "random-k", "fraction": 0.05}, 30 * 4),
    "qsgd": ({"name": "qsgd"}, 5 * 4 + 5 * 77),
    "sign": ({"name": "sign"}, 4 * 4 + 77),
    "low-rank": ({"name": "low-rank", "rank": 2}, 4 * (2 * (8 + 64) + 8 + 2 * (10 + 8) + 10)),
}


@pytest.mark.parametrize("name", PACKETS)
def test_the_column_of_a_run_is_the_ratio_of_the_bytes(home, name):
    compression, packet = PACKETS[name]
    file = write(
        home / "x.toml",
        problem=MLP,
        topology={"name": "star", "workers": 4},
        sweep={"algorithm": [{"name": "choco", "gamma": 0.2}, {"name": "pmsgd"}]},
        compression=compression,
        train={"lr": 0.02, "rounds": 7, "dtype": "float32", "record_every": 2, "batch_size": 8},
    )
    assert decentral("run", file, "--out", "out").code == 0
    for run, rows in metrics(home / "out").items():
        mean, most, count = (1.5, 3, 6) if "choco" in run else (3, 3, 12)  # a star's degrees; n - 1
        assert [row["round"] for row in rows] == ["0", "2", "4", "6", "7"]
        assert rows[0]["compression_ratio"] in ("", "nan")
        for row in rows:
            t = int(row["round"])
            assert float(row["bytes_sent_mean"]) == mean * t * packet
            assert float(row["bytes_sent_max"]) == most * t * packet
            assert int(row["messages"]) == count * t
            if t:
                assert float(row["compression_ratio"]) == pytest.approx(PARAMETERS * 4 / packet, rel=1e-15)


def test_the_ratios_of_adacomp_agree_with_the_ledger(home):
    file = write(
        home / "x.toml",
        problem=MLP,
        algorithm={"name": "pmsgd"},
        compression={"name": "adacomp"},
        train={"lr": 0.02, "rounds": 8, "dtype": "float32", "record_every": 2, "batch_size": 8},
    )
    assert decentral("run", file, "--out", "out").code == 0
    (rows,) = metrics(home / "out").values()
    for before, row in itertools.pairwise(rows):
        packets = (float(row["bytes_sent_mean"]) - float(before["bytes_sent_mean"])) / 3  # to three others
        assert float(row["compression_ratio"]) == pytest.approx(2 * PARAMETERS * 4 / packets, rel=1e-12)
        if "compression_ratio_dense" in row:
            assert (
                row["compression_ratio_dense"] == row["compression_ratio"]
            )  # weights and biases of dense layers
    assert len({row["compression_ratio"] for row in rows[1:]}) == 4  # it adapts


SWEEPS = {
    "gradients": ({"name": "pmsgd", "momentum": 0.0}, ["top-k", "adacomp", "low-rank", "dgc"]),
    "differences": ({"name": "choco", "gamma": 0.2}, ["low-rank", "qsgd"]),
    "factors": ({"name": "power-gossip", "rank": 2}, ["none"]),
}


@pytest.mark.parametrize("case", SWEEPS)
def test_runs_that_were_interrupted_go_on_with_what_was_not_sent(home, monkeypatch, case):
    algorithm, compressors = SWEEPS[case]
    file = write(
        home / "x.toml",
        problem=MLP,
        algorithm=algorithm,
        sweep={"compression": {"name": compressors}},
        schedule={"name": "cosine"},
        train={"lr": 0.05, "rounds": 7, "record_every": 2, "checkpoint_every": 3, "batch_size": 8},
    )
    check_that_resuming_changes_nothing(home, monkeypatch, file)


@pytest.mark.parametrize(
    ("algorithm", "compression"),
    [
        *(({"name": "choco"}, {"name": name}) for name in ("top-k", "low-rank")),
        *(({"name": "pmsgd"}, {"name": name, "error_feedback": False}) for name in ("sign", "adacomp")),
        ({"name": "dsgd"}, {"name": "qsgd"}),
        ({"name": "power-gossip"}, {}),
    ],
    ids=str,
)
def test_numbers_that_are_not_finite_are_a_divergence_as_without_compression(home, algorithm, compression):
    file = write(
        home / "x.toml",
        problem=MLP,
        algorithm={**algorithm, "allow_unstable": True},
        compression=compression,
        train={"lr": 1e30, "rounds": 60, "dtype": "float32", "record_every": 60, "batch_size": 8},
        seeds=[0, 1],
    )
    said = decentral("run", file, "--out", "out")
    assert said.code == 3
    assert "Traceback" not in said.err
    assert [row["status"] for row in read_csv(home / "out" / "results.csv")] == ["diverged"] * 2
    assert said.err.count("diverged: ") == 2


def test_what_is_not_finite_travels_as_an_empty_packet():
    links = Links(TopK(0.2), LAYOUT, SEED, range(2))
    x = gradients(2, LAYOUT.d, 1)[0]
    x[1, 3] = torch.inf
    sent = links.at(0).encode(x)
    assert [len(packet) > 0 for packet in sent.packets] == [True, False]
    assert sent.rows[0].isfinite().all()
    assert sent.rows[1].isnan().all()
    assert sent.decode(1, sent.packets[1]).isnan().all()
    assert links.counts[""].tolist() == [LAYOUT.d * 8, len(sent.packets[0])]


@pytest.mark.parametrize("base", ["push-sum", "relay-sgd", "choco", "power-gossip"])
def test_slowmo_is_as_particular_as_its_base_method(base, monkeypatch):
    monkeypatch.setattr("decentral.rounds.block_width", lambda h, d: 7)
    method, inner = SlowMo(base, every=3), ALGORITHMS[base]()
    directed = topologies.constant(topologies.mixing_matrix(digraph(6, 6), "uniform"))
    assert unmet(method, directed) == unmet(inner, directed) is not None
    w = topologies.mixing_matrix(topologies.path(5))
    comm, plain, g = layered(w), layered(w), gradients(5, LAYOUT.d, 6)
    x = torch.zeros(5, LAYOUT.d, dtype=torch.float64)
    state = method.init(x, comm)
    for t, g_t in enumerate(g):
        x, state = advance(method, x, state, [(slice(0, LAYOUT.d), g_t.clone())], comm, t, 0.1)
    torch.testing.assert_close(x, go(method, plain, g, 0.1)[0], rtol=0, atol=1e-13)
    assert np.array_equal(comm.ledger.bytes_sent, plain.ledger.bytes_sent)
