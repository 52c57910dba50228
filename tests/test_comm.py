"""The communicator in one process: mixing, edges, exact means, and the ledger's closed forms."""

import networkx as nx
import numpy as np
import pytest
import torch

import topologies
from decentral.algorithms import DSGD, DecentLaM, DmSGD, PmSGD
from decentral.comm import LocalComm
from decentral.rounds.advance import advance

TOPOLOGIES = sorted(topologies.TOPOLOGIES)


def rows(n, d, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(3).standard_normal((n, d))).to(dtype)


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("n", [1, 2, 8, 16])
def test_mix_is_the_matrix_product(name, n):
    try:
        graph = topologies.TOPOLOGIES[name](n)
    except ValueError:
        pytest.skip(f"{name} has no graph of {n}")
    w = topologies.mixing_matrix(graph, "uniform")
    x = rows(n, 5)
    np.testing.assert_allclose(LocalComm(w).mix(x).numpy(), w @ x.numpy(), atol=1e-14)


def test_a_sum_over_neighbours_takes_the_own_row_first_then_neighbours_ascending():
    w = np.array([[0.75, 0.25, 0], [0.25, 0.5, 0.25], [0, 0.25, 0.75]])
    x = torch.tensor([[2.0**60], [1.0], [-(2.0**60)]], dtype=torch.float64)
    assert (
        LocalComm(w).mix(x)[1].item() == 0.0
    )  # the own row is absorbed by the first neighbour, who then cancels
    x = torch.tensor([[2.0**60], [-(2.0**59)], [1.0]], dtype=torch.float64)
    assert LocalComm(w).mix(x)[1].item() == 0.25  # own and first neighbour cancel before the second joins


@pytest.mark.parametrize("n", [2, 7, 64])
def test_a_run_of_rows_has_the_bits_of_rows_one_by_one(n):
    w = topologies.mixing_matrix(topologies.ring(n))
    x = rows(n, 1237, torch.float32)
    mixed = LocalComm(w).mix(x)
    for i in range(n):
        row = x[i] * float(w[i, i])
        for j in sorted(set(w[[i]].indices) - {i}):
            row = row.add(x[j], alpha=float(w[i, j]))
        assert torch.equal(mixed[i], row)


def test_the_split_form_is_mix():
    comm = LocalComm(topologies.mixing_matrix(topologies.torus(12)))
    x = rows(12, 3)
    pending = comm.start(x)
    assert torch.equal(comm.finish(pending), comm.mix(x))
    assert torch.equal(comm.mix_(x.clone()), comm.mix(x))


def test_exchange_carries_each_edges_row_to_its_receiver():
    graph = topologies.exponential(6)
    comm = LocalComm(topologies.mixing_matrix(graph))
    out = torch.tensor(comm.edges_out, dtype=torch.float64)  # each row says from whom to whom
    arrived = comm.exchange(out).long().numpy()
    assert np.array_equal(arrived, comm.edges_in)
    assert sorted(map(tuple, arrived)) == sorted(graph.edges)
    assert list(map(tuple, comm.edges_in)) == sorted(map(tuple, comm.edges_in), key=lambda e: (e[1], e[0]))


def test_the_mean_sums_workers_ascending():
    x = torch.tensor([[1e16], [1.0], [-1e16], [1.0]], dtype=torch.float64)
    comm = LocalComm(np.full((4, 4), 0.25))
    assert comm.mean(x).item() == (((1e16 + 1.0) - 1e16) + 1.0) / 4


def test_a_matrix_of_exact_averaging_mixes_as_the_exact_mean():
    x = rows(8, 3)
    comm = LocalComm(np.full((8, 8), 1 / 8))
    assert torch.equal(comm.mix(x), comm.observe_mean(x).expand(8, 3))
    assert comm.ledger.bytes_sent.tolist() == [7 * 3 * 8.0] * 8


@pytest.mark.parametrize(
    "graph", [topologies.ring(8), topologies.star(8), topologies.torus(16), nx.petersen_graph()]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gossip_is_billed_degree_times_d_times_itemsize_a_round(graph, dtype):
    w = topologies.mixing_matrix(graph)
    n, d, rounds = w.shape[0], 11, 5
    degrees = np.array([graph.degree(i) for i in range(n)])
    for method, vectors in [
        (DSGD(), 1), (DSGD("awc"), 1), (DmSGD(), 1), (DmSGD(0.9, "doubly-averaged"), 2), (DecentLaM(), 1)
    ]:  # fmt: skip
        comm, x = LocalComm(w), rows(n, d, dtype)
        state = method.init(x, comm)
        for t in range(rounds):
            x, state = method.step(x, state, torch.zeros_like(x), comm.at(t), 0.1)
        assert np.array_equal(comm.ledger.bytes_sent, vectors * rounds * degrees * d * x.element_size())
        assert comm.ledger.messages == vectors * rounds * degrees.sum()
        assert comm.ledger.mpi_bytes == 0


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_all_reduce_is_billed_two_n_minus_one_over_n_vectors(n):
    comm, d, rounds = LocalComm(topologies.mixing_matrix(topologies.ring(n))), 7, 3
    x = rows(n, d)
    method = PmSGD()
    state = method.init(x, comm)
    for t in range(rounds):
        x, state = method.step(x, state, torch.ones_like(x), comm.at(t), 0.1)
    assert np.array_equal(comm.ledger.bytes_sent, np.full(n, rounds * 2 * (n - 1) * d * 8 / n))
    assert comm.ledger.messages == rounds * 2 * (n - 1) * n


def test_directed_gossip_is_billed_by_the_out_degree_of_each_round():
    comm = LocalComm(topologies.one_peer_exponential(8))
    x = rows(8, 5)
    for t in range(3):
        x = comm.at(t).mix(x)
    assert np.array_equal(comm.ledger.bytes_sent, np.full(8, 3 * 5 * 8.0))
    torch.testing.assert_close(x, comm.observe_mean(rows(8, 5)).expand(8, 5), rtol=0, atol=1e-15)


@pytest.mark.parametrize("width", [1, 3, 10])
@pytest.mark.parametrize("method", [PmSGD(), DSGD(), DmSGD(0.9, "doubly-averaged"), DecentLaM()], ids=str)
def test_a_round_in_blocks_of_columns_has_the_bits_and_the_bill_of_a_whole_one(method, width, monkeypatch):
    monkeypatch.setattr("decentral.rounds.advance.block_width", lambda h, d: width)
    w = topologies.mixing_matrix(topologies.ring(6))
    whole, blocks = LocalComm(w), LocalComm(w)
    x, y = rows(6, 10), rows(6, 10)
    s, r = method.init(x, whole), method.init(y, blocks)
    for t in range(4):
        g = rows(6, 10) * (t + 1)
        x, s = method.step(x, s, g + 0.1 * x, whole.at(t), 0.05 * (t + 1))
        y, r = advance(
            method, y, r, [(slice(0, 4), g[:, :4]), (slice(4, 10), g[:, 4:])], blocks, t, 0.05 * (t + 1), 0.1
        )
    torch.testing.assert_close(x, y, rtol=0, atol=1e-15)
    assert np.array_equal(whole.ledger.bytes_sent, blocks.ledger.bytes_sent)
    assert whole.ledger.messages == blocks.ledger.messages


def test_a_matrix_that_does_not_average_is_refused():
    with pytest.raises(ValueError, match="sum"):
        LocalComm(np.array([[0.5, 0.4], [0.5, 0.5]]))
    with pytest.raises(ValueError, match="connect"):
        LocalComm(np.eye(3))
