"""Blocks of columns whose messages travel together: who begins and goes on when, and the same bits for every method."""

import pytest
from greenlet import getcurrent
from ranks import run_ranks

from decentral.rounds.posting import in_turns

METHODS = """
import inspect
import torch
import topologies
import decentral.algorithms as algorithms
from decentral.comm import LocalComm
from decentral.comm.mpi import MPIComm
from decentral.rounds.advance import advance

n, d = 4, 50
w = topologies.mixing_matrix(topologies.ring(n))


def run(method, comm, width):
    mine, draw = slice(comm.rows.start, comm.rows.stop), torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=draw)[mine].clone()
    state = method.init(x, comm)
    for t in range(12):
        g = torch.randn(n, d, generator=draw)[mine]
        blocks = [(slice(0, 30), g[:, :30]), (slice(30, d), g[:, 30:])] if width < d else [(slice(0, d), g)]
        x, state = advance(method, x, state, blocks, comm, t, 0.05, 0.01, width)
    return x


comm, seen = MPIComm(w, check=False), 0
for name, make in sorted(algorithms.ALGORITHMS.items()):
    if name in ("matcha", "relay-sgd", "power-gossip"):  # of graphs of their own, or of whole vectors
        continue
    whole = run(make(), LocalComm(w, check=False), d)
    assert torch.equal(run(make(), comm, 7), whole[comm.rows.start : comm.rows.stop]), name
    seen += 1
if comm.rank == 0:
    print(seen, "methods")
"""


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_as_many_as_are_allowed_have_begun_when_the_oldest_goes_on(ahead):
    said = []

    def work(k):
        said.append(("sent", k))
        getcurrent().parent.switch()
        said.append(("went on", k))

    in_turns([lambda k=k: work(k) for k in range(4)], ahead)
    assert (
        [k for what, k in said if what == "sent"]
        == [k for what, k in said if what == "went on"]
        == [0, 1, 2, 3]
    )
    under_way = [sum(1 if what == "sent" else -1 for what, _ in said[: i + 1]) for i in range(len(said))]
    assert max(under_way) == min(ahead, 4)


def test_what_fails_in_a_block_is_raised():
    def fails():
        raise RuntimeError("a block")

    with pytest.raises(RuntimeError, match="a block"):
        in_turns([fails], 4)


@pytest.mark.mpi
def test_every_method_has_the_bits_of_one_block_in_one_process():
    done = run_ranks(2, "-c", METHODS)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 17
