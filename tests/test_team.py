"""Threads that share a round's blocks: the same bits and bills, errors that come through, forks."""

import multiprocessing
import threading

import numpy as np
import pytest
import torch

import topologies
from decentral.algorithms import ALGORITHMS
from decentral.algorithms.state import tensors_of
from decentral.comm import LocalComm
from decentral.optimizers import AdamW
from decentral.rounds.advance import advance
from decentral.rounds.ruled import Ruled
from decentral.rounds.team import share

N, D, WIDTH = 8, 1000, 60


@pytest.fixture
def threads():
    """Sets torch's number of threads; rounds are shared from two on."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def trained(method, mixing, gradients):
    """x, state and ledger after a round for each gradient, in blocks of WIDTH columns."""
    comm = LocalComm(mixing)
    x = torch.linspace(-1, 1, N * D).reshape(N, D).clone()
    state = method.init(x, comm)
    for t, g in enumerate(gradients):
        parts = iter([(slice(0, 400), g[:, :400]), (slice(400, D), g[:, 400:])])
        x, state = advance(method, x, state, parts, comm, t, 0.05 / (t + 1), 0.1, width=WIDTH)
    return x, state, comm.ledger


def methods():
    undirected = topologies.mixing_matrix(topologies.ring(N))
    for name in (
        "dsgd",
        "dmsgd",
        "decentlam",
        "pmsgd",
        "gradient-tracking",
        "extra",
        "choco",
        "slowmo",
        "diloco",
    ):
        yield pytest.param(ALGORITHMS[name](), undirected, id=name)
    for name in ("push-sum", "push-diging"):
        push = topologies.mixing_matrix(topologies.exponential(N), "push")
        yield pytest.param(ALGORITHMS[name](), push, id=name)
    yield pytest.param(ALGORITHMS["dmsgd"](), topologies.one_peer_exponential(N), id="dmsgd one-peer")
    yield pytest.param(Ruled(ALGORITHMS["dsgd"](), AdamW()), undirected, id="adamw")


@pytest.mark.parametrize(("method", "mixing"), [*methods()])
def test_a_shared_round_has_the_bits_and_the_bill_of_one_thread(threads, method, mixing):
    torch.manual_seed(0)
    gradients = torch.randn(5, N, D)
    x, state, ledger = trained(method, mixing, gradients)
    threads(3)
    y, shared_state, shared_ledger = trained(method, mixing, gradients)
    assert torch.equal(x, y)
    pairs = list(zip(tensors_of(state), tensors_of(shared_state), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert np.array_equal(ledger.bytes_sent, shared_ledger.bytes_sent)
    assert ledger.messages == shared_ledger.messages
    assert torch.get_num_threads() == 3


def test_all_works_are_done_once_each_by_several_threads_that_compute_alone():
    started, done, torch_threads, names = threading.Barrier(3), [], set(), set()

    def work(k):
        if k < 3:
            started.wait(20)  # passes only if three threads are at it
        torch_threads.add(torch.get_num_threads())
        names.add(threading.get_ident())
        done.append(k)

    share((lambda k=k: work(k) for k in range(200)), 3)
    assert sorted(done) == list(range(200))
    assert torch_threads == {1}
    assert len(names) == 3


@pytest.mark.parametrize("bad", [0, 1, 7])
def test_an_error_of_any_thread_is_raised_when_all_have_ended(bad):
    done = []

    def work(k):
        if k == bad:
            raise ZeroDivisionError(k)
        done.append(k)

    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            share((lambda k=k: work(k) for k in range(10**6)), 2)
        count = len(done)
        share([], 2)
        assert len(done) == count  # nobody goes on with it
    assert torch.get_num_threads() == 1


def test_a_works_own_error_while_it_is_asked_for_the_next_is_raised():
    def works():
        yield lambda: None
        raise LookupError("no next")

    with pytest.raises(LookupError, match="no next"):
        share(works(), 2)


def test_grad_mode_is_that_of_the_caller():
    modes, started = [], threading.Barrier(2)

    def work():
        started.wait(20)
        modes.append(torch.is_grad_enabled())

    with torch.no_grad():
        share([work, work], 2)
    assert modes == [False, False]


def test_a_forked_process_has_threads_of_its_own():
    share([lambda: None] * 4, 2)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_shared_sum).get(20) == 45


def _shared_sum():
    found = []
    share((lambda k=k: found.append(k) for k in range(10)), 2)
    return sum(found)


def test_a_round_of_one_block_is_one_threads(threads):
    seen = []

    class Watching:
        def init(self, x, comm):
            return ()

        def step(self, x, state, g, comm, lr):
            seen.append((threading.current_thread(), torch.get_num_threads()))
            return x, state

    threads(2)
    mixing = topologies.mixing_matrix(topologies.ring(N))
    x = torch.zeros(N, D)
    advance(Watching(), x, (), [(slice(0, D), x)], LocalComm(mixing), 0, 0.1)
    assert seen == [(threading.main_thread(), 1)]
    assert torch.get_num_threads() == 2
