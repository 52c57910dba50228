"""The compiled form of a round is the same method, with the same bill."""

import shutil

import numpy as np
import pytest
import torch

import topologies
from decentral.algorithms import DecentLaM, DmSGD, PmSGD
from decentral.comm import LocalComm
from decentral.errors import UserError
from decentral.rounds.advance import advance
from decentral.rounds.compiled import CompiledMethod

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("method", [PmSGD(), DmSGD(0.9, "doubly-averaged"), DecentLaM()], ids=str)
def test_a_compiled_round_equals_a_plain_one_and_bills_the_same(method):
    w = topologies.mixing_matrix(topologies.ring(6))
    plain, other = LocalComm(w), LocalComm(w)
    compiled = CompiledMethod(method, other)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 64)))
    y = x.clone()
    s, r = method.init(x, plain), method.init(y, other)
    for t in range(3):
        g = torch.from_numpy(np.random.default_rng(t).standard_normal((6, 64)))
        x, s = advance(method, x, s, [(slice(0, 64), g)], plain, t, 0.05)
        y, r = advance(compiled, y, r, [(slice(0, 64), g)], other, t, 0.05)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-14)
    assert np.array_equal(plain.ledger.bytes_sent, other.ledger.bytes_sent)
    assert plain.ledger.messages == other.ledger.messages


def test_a_changing_graph_is_not_compiled():
    with pytest.raises(UserError, match="does not change"):
        CompiledMethod(DmSGD(), LocalComm(topologies.one_peer_exponential(4)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_gradients_that_come_by_parameter_are_joined_for_the_compiled_round():
    comm = LocalComm(topologies.mixing_matrix(topologies.ring(4)))
    compiled, widths = CompiledMethod(DmSGD(), comm), []
    inner = compiled.step
    compiled.step = lambda x, *rest: (widths.append(x.shape[1]), inner(x, *rest))[1]
    x = torch.zeros(4, 10)
    state = DmSGD().init(x, comm)
    blocks = [(slice(0, 3), torch.ones(4, 3)), (slice(3, 10), torch.full((4, 7), 2.0))]
    x, _ = advance(compiled, x, state, blocks, comm, 0, 0.5)
    assert widths == [10]
    torch.testing.assert_close(x, torch.cat([torch.full((4, 3), -0.5), torch.full((4, 7), -1.0)], 1))
