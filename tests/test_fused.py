"""A round in one pass over memory: the bits and bills of torch's operations, or not at all."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import sparse

import topologies
from decentral.algorithms import ALGORITHMS
from decentral.algorithms.momentum import Momentum
from decentral.algorithms.state import tensors_of
from decentral.comm import LocalComm
from decentral.comm.order import RowOrder
from decentral.rounds.advance import advance
from decentral.rounds.fused import agreement, fusing

N, D = 20, 333  # more rows than are added one after the other; columns in vectors and alone
FUSED = (
    "pmsgd", "dsgd", "dmsgd", "decentlam", "quasi-global", "d2", "exact-diffusion", "extra", "gradient-tracking",
    "diging", "momentum-tracking", "local-sgd", "gossip-pga", "slowmo", "choco",
)  # fmt: skip


@pytest.fixture
def looked_at(monkeypatch):
    """Whether small rounds are looked at, and of each that was: whether it had a kernel."""
    pytest.importorskip("llvmlite")
    seen, find = [], fusing.kernel_for

    def kernel_for(program, dtype):
        seen.append(find(program, dtype) is not None)
        return find(program, dtype)

    def look(small=True):
        monkeypatch.setattr(fusing, "_LARGE", 0 if small else 1 << 60)
        return seen

    monkeypatch.setattr(fusing, "kernel_for", kernel_for)
    yield look
    torch.set_num_threads(1)


def trained(method, mixing, dtype=torch.float32, n=N, d=D, rounds=4, check=True):
    """Models, state and what was billed, after rounds with gradients in two blocks, one of them not contiguous."""
    comm, draws = LocalComm(mixing, check=check), torch.Generator().manual_seed(3)
    x = torch.randn(n, d, generator=draws, dtype=dtype)
    state = method.init(x, comm)
    for t in range(rounds):
        g = torch.randn(n, d, generator=draws, dtype=dtype)
        parts = [(slice(0, 100), g[:, :100].contiguous()), (slice(100, d), g[:, 100:])]
        x, state = advance(method, x, state, parts, comm, t, 0.01 * (1 + t % 3), 1e-3)
    ledger = comm.ledger
    return [x, *tensors_of(state)], (ledger.bytes_sent.tolist(), ledger.messages, ledger.take_traffic())


def same(method, mixing, look, **how):
    look(small=False)
    plain, bill = trained(method, mixing, **how)
    look()
    fused, its_bill = trained(method, mixing, **how)
    assert bill == its_bill
    return all(torch.equal(a, b) for a, b in zip(plain, fused, strict=True))


@pytest.mark.parametrize("name", FUSED)
def test_methods_keep_their_bits_and_bills(name, looked_at):
    method = ALGORITHMS[name]()
    rule = "lazy" if name == "d2" else "metropolis"
    torus = topologies.mixing_matrix(topologies.torus(N), rule)
    assert same(method, torus, looked_at)
    assert same(method, torus, looked_at, dtype=torch.float64)
    assert looked_at() == [True] * 8


@pytest.mark.parametrize("variant", ["awc", "nesterov", "doubly-averaged"])
def test_variants_too(variant, looked_at):
    assert same(ALGORITHMS["dmsgd"](variant=variant), topologies.mixing_matrix(topologies.ring(N)), looked_at)
    assert all(looked_at())


@pytest.mark.parametrize("graph", ["complete", "star", "exponential", "erdos-renyi", "one-peer-exponential"])
def test_graphs_too(graph, looked_at):
    if graph in topologies.SCHEDULES:
        mixing = topologies.SCHEDULES[graph](N)
    else:
        mixing = topologies.mixing_matrix(topologies.TOPOLOGIES[graph](N))
    assert same(ALGORITHMS["dmsgd"](), mixing, looked_at)
    assert all(looked_at())


def test_threads_that_share_a_round_change_nothing(looked_at):
    mixing = topologies.mixing_matrix(topologies.ring(N))
    torch.set_num_threads(2)
    assert same(ALGORITHMS["decentlam"](), mixing, looked_at, d=70_000)
    assert all(looked_at())


@dataclass(frozen=True)
class Signs:
    """Its step asks for what is no sum: it is done as ever."""

    def init(self, x, comm):
        del comm
        return Momentum(torch.zeros_like(x))

    def step(self, x, state, g, comm, lr):
        m = state.m.mul_(0.9).add_(g)
        return comm.mix(x - lr * m.sign()), Momentum(m)


@dataclass(frozen=True)
class Twice(Signs):
    """Rows meet twice, one after the other."""

    def step(self, x, state, g, comm, lr):
        return comm.mix(comm.mix(x.sub(g, alpha=lr))), state


@dataclass(frozen=True)
class Wrapping(Signs):
    """Operators instead of names, and a state that is the model before."""

    def step(self, x, state, g, comm, lr):
        return comm.mix(x - g * lr) + (x - state.m) / 4, Momentum(x.clone())


@pytest.mark.parametrize(("method", "kernels"), [(Signs(), 0), (Twice(), 0), (Wrapping(), 4)], ids=str)
def test_a_users_method_is_fused_or_done_as_ever(method, kernels, looked_at):
    assert same(method, topologies.mixing_matrix(topologies.ring(N)), looked_at)
    assert looked_at() == [True] * kernels


def test_a_kernel_that_rounds_otherwise_is_not_used(looked_at, monkeypatch):
    right = agreement.by_torch
    monkeypatch.setattr(agreement, "by_torch", lambda *a: [value.nextafter(value + 1) for value in right(*a)])
    agreement.kernel_for.cache_clear()
    assert same(ALGORITHMS["decentlam"](), topologies.mixing_matrix(topologies.ring(N)), looked_at)
    assert looked_at() == [False] * 4
    agreement.kernel_for.cache_clear()


def test_without_llvm_rounds_are_as_ever(looked_at, monkeypatch):
    for name in ("llvmlite", "decentral.rounds.fused.text", "decentral.rounds.fused.machine"):
        monkeypatch.setitem(sys.modules, name, None)
    agreement.kernel_for.cache_clear()
    assert same(ALGORITHMS["decentlam"](), topologies.mixing_matrix(topologies.ring(N)), looked_at)
    assert looked_at() == [False] * 4
    agreement.kernel_for.cache_clear()


def test_small_rounds_load_no_llvm_and_large_ones_no_compiler_of_torch():
    pytest.importorskip("llvmlite")
    code = """
import sys, torch, topologies
from decentral.algorithms import DSGD
from decentral.comm import LocalComm
from decentral.rounds.advance import advance
comm = LocalComm(topologies.mixing_matrix(topologies.ring(4)))
for d in (1 << 10, 1 << 20):
    x = torch.ones(4, d)
    advance(DSGD(), x, (), [(slice(0, d), torch.ones(4, d))], comm, 0, 0.1)
    print(*("llvmlite" in sys.modules, "torch._dynamo" in sys.modules, "sympy" in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False False False", "True False False"]


@pytest.mark.parametrize("at_once", [False, True])
def test_an_order_of_rows_has_each_when_it_is_needed(at_once):
    rng = np.random.default_rng(0)
    w = sparse.random_array((30, 30), density=0.1, rng=rng, format="csr")
    z, order = rng.standard_normal(30), RowOrder.of(w.indptr, w.indices, at_once)
    slots, made = np.full(order.slots, np.nan), []
    for i in range(30):
        for k in range(order.ready_from[i], order.ready_from[i + 1]):
            slots[order.into[k]] = z[order.ready[k]]
        terms = range(order.terms_from[i], order.terms_from[i + 1])
        made.append(sum(w.data[k] * slots[order.terms[k]] for k in terms))
        assert i in order.ready[: order.ready_from[i + 1]]  # so x may be overwritten
    assert made == pytest.approx(w @ z, rel=1e-12)


def test_few_rows_of_a_ring_are_kept_at_a_time():
    assert [
        LocalComm(topologies.mixing_matrix(topologies.ring(n))).plan.order.slots for n in (8, 64, 500)
    ] == [5] * 3
