"""Links that compress: what is sent, received, summed and counted."""

import numpy as np
import pytest
import torch
from linked_workers import LAYOUT, LRS, RING, SEED, UNBIASED, UNEVEN, Senders, go, layered, linked
from ranks import run_ranks
from test_compression import layers
from test_methods import gradients
from test_methods_directed import CHANGING, digraph, push

import topologies
from decentral.algorithms import (
    CHOCO,
    DSGD,
    DIGing,
    LocalSGD,
    PmSGD,
    PowerGossip,
    PushSum,
)
from decentral.comm.compression import (
    QSGD,
    AdaComp,
    ErrorFeedback,
    LowRank,
    MomentumCorrection,
    RandomK,
    Sign,
    TopK,
)
from decentral.comm.links import Links
from decentral.rounds.advance import advance


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


@pytest.mark.parametrize("compressor", [TopK(0.2), LowRank(1)], ids=str)
def test_the_round_loop_hands_links_and_power_gossip_whole_vectors(compressor, monkeypatch):
    monkeypatch.setattr("decentral.rounds.advance.block_width", lambda h, d: 7)
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


PACKETS = """
import hashlib, torch
from decentral.comm.links import Links
from decentral.comm.compression import COMPRESSORS, QSGD, Layout, Span, dgc
x = torch.randn(1, 300_000, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
layout = Layout((Span("a", 0, 280_000, (700, 400), "dense"), Span("b", 280_000, 300_000, (20_000,), "other")))
for compressor in (*(kind() for kind in COMPRESSORS.values()), dgc(), QSGD(15, 150_000)):
    links, before = Links(compressor, layout, 0, range(1)), torch.get_num_threads()
    packets = [links.at(t).encode(x * (t + 1)).packets[0].numpy().tobytes() for t in range(3)]
    single = Links(compressor, layout, 0, range(1))
    packets += [single.at(t).encode(x.float() * (t + 1)).packets[0].numpy().tobytes() for t in range(3)]
    assert torch.get_num_threads() == before
    print(compressor, hashlib.md5(b"".join(packets)).hexdigest())
"""


@pytest.mark.slow
def test_what_is_sent_does_not_depend_on_the_number_of_threads():
    one, two = (run_ranks(1, "-c", PACKETS, OMP_NUM_THREADS=str(n)) for n in (1, 2))
    assert one.returncode == 0, one.stderr
    assert one.stdout.count("\n") == 8
    assert one.stdout == two.stdout
