"""Rows of GPUs go by NCCL, in batches that all ranks call alike: ranks are threads here, and NCCL keeps its rules."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import topologies
from decentral.comm import LocalComm, TorchComm
from decentral.comm.distributed import cuda
from decentral.comm.distributed.ranks import TorchRanks


class Pretended(torch.Tensor):
    """A tensor that says it is a GPU's."""

    is_cuda = property(lambda self: True)


class Group:
    """NCCL's all-to-all of lists: what one sends is as long as what the other expects; all ranks call it."""

    Options = SimpleNamespace

    def __init__(self, met, rank, size, options):
        self.met, self.rank, self.timeout = met, rank, options._timeout

    def alltoall(self, into, out, options):
        self.met.out[self.rank] = out
        self.met.barrier.wait(10)
        for rank, room in enumerate(into):
            sent = self.met.out[rank][self.rank]
            assert room.is_contiguous()
            assert sent.is_contiguous()
            assert room.numel() == sent.numel()
            room.copy_(sent.view(room.shape))
        self.met.barrier.wait(10)
        self.met.calls += self.rank == 0
        return SimpleNamespace(wait=lambda: None)


@pytest.fixture
def on_ranks(monkeypatch):
    """``on_ranks(size, work)``: what ``work(mpi)`` gives on each of so many ranks with a GPU each; and NCCL's calls."""
    monkeypatch.setattr(cuda, "dist", SimpleNamespace(ProcessGroupNCCL=Group, AllToAllOptions=lambda: None))
    monkeypatch.setattr("decentral.comm.ranks.as_array", lambda wire: wire)

    def run(size, work):
        met = SimpleNamespace(barrier=threading.Barrier(size), out={}, calls=0)

        def one(rank):
            mpi = object.__new__(TorchRanks)
            mpi.rank, mpi.size = rank, size
            mpi.__dict__["cuda"] = cuda.CudaGroup(met, rank, size, None)
            return work(mpi)

        with ThreadPoolExecutor(size) as ranks:
            return list(ranks.map(one, range(size))), met.calls

    return run


@pytest.mark.parametrize(
    "graph", [topologies.ring(6), topologies.star(6), topologies.erdos_renyi(6, p=0.4, seed=1)]
)
def test_mixings_means_and_edges_have_the_bits_of_one_process(on_ranks, graph):
    w = topologies.mixing_matrix(graph)
    x, local = torch.randn(6, 11, generator=torch.Generator().manual_seed(1)), LocalComm(w)
    edges = torch.from_numpy(local.edges_out).float()

    def work(mpi):
        comm = TorchComm(w, mpi, check=False)
        mine = x[comm.rows.start : comm.rows.stop].as_subclass(Pretended)
        first = [tuple(edge) for edge in local.edges_out.tolist()].index(tuple(comm.edges_out[0].tolist()))
        sent = edges[first : first + len(comm.edges_out)].as_subclass(Pretended)
        return comm.mix(mine), comm.mean(mine), comm.exchange(sent), comm.ledger.bytes_sent

    found, calls = on_ranks(3, work)
    mixed, means, came, sent = zip(*found, strict=True)
    assert torch.equal(torch.cat(mixed), local.mix(x))
    mean = local.mean(x)
    assert all(torch.equal(one, mean) for one in means)
    assert torch.equal(torch.cat(came), local.exchange(edges))
    assert np.array_equal(np.concatenate(sent), local.ledger.bytes_sent)
    assert calls == 4  # one batch a mixing or exchange, two a mean


@pytest.mark.parametrize(
    ("cards", "there", "by_nccl"), [("ab", True, True), ("aa", True, False), ("ab", False, False)]
)
def test_ranks_that_share_a_card_or_lack_nccl_go_by_the_host(on_ranks, monkeypatch, cards, there, by_nccl):
    card = SimpleNamespace(uuid=cards[0])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    cuda.dist.is_nccl_available = lambda: there

    def agree(mine):
        return [mine, (there, (mine[1][0], cards[1]))]

    assert (cuda.CudaGroup.of(None, 0, 2, None, agree) is not None) is by_nccl
