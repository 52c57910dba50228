"""A round in two passes, before the message and after it: the bits and bytes of torch's operations, all methods."""

import pytest
from ranks import run_ranks

WITHIN = """
import sys
import torch
import topologies
import decentral.algorithms as algorithms
from decentral.comm.mpi import MPIComm
from decentral.rounds import advance as rounds
from decentral.rounds.fused import halves

halves._LARGE = 1
n, d = 3, 500
made, step = [], halves.Halves.step
halves.Halves.step = lambda self, *args: (made.append(1), step(self, *args))


def run(method, w, fused):
    comm, draw = MPIComm(w, check=False), torch.Generator().manual_seed(0)
    rounds.halves_of = halves.halves_of if fused else lambda *_: None
    x = torch.randn(n, d, generator=draw)[comm.rank : comm.rank + 1].clone()
    state = method.init(x, comm)
    for t in range(9):
        g = torch.randn(n, d, generator=draw)[comm.rank : comm.rank + 1]
        blocks = [(slice(0, 300), g[:, :300]), (slice(300, d), g[:, 300:])]
        x, state = rounds.advance(method, x, state, blocks, comm, t, 0.05 / (1 + t // 4), 0.01, 130)
    return x, comm.ledger.mpi_bytes, comm.ledger.messages, comm.ledger.bytes_sent.tolist()


found = set()
pairs = topologies.cyclic([[[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]], [[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]]])
for w in (topologies.mixing_matrix(topologies.ring(n)), pairs):  # in pairs one worker has nobody
    for name, make in sorted(algorithms.ALGORITHMS.items()):
        if name in ("matcha", "relay-sgd", "power-gossip"):  # of graphs of their own, or of whole vectors
            continue
        made.clear()
        (x, *counts), (right, *others) = run(make(), w, True), run(make(), w, False)
        assert torch.equal(x, right), name
        assert counts == others, (name, counts, others)
        if made:
            found.add(name)
halves._kept.clear()
halves.kernel_for = lambda *_: None  # as where there is no llvmlite
made.clear()
run(algorithms.DecentLaM(), w, True)
assert not made
print(*sorted(found))
"""


@pytest.mark.mpi
def test_every_method_has_the_bits_and_bytes_of_torch_s_operations():
    pytest.importorskip("llvmlite")
    done = run_ranks(3, "-c", WITHIN)
    assert done.returncode == 0, done.stderr
    fused = "choco d2 decentlam dmsgd dsgd exact-diffusion extra gossip-pga quasi-global slowmo"
    assert done.stdout.splitlines() == [fused] * 3
