"""When the drop-in sends what it sends, and in how many pieces."""

import pytest
from drop_in_scripts import SETUP, passes

pytestmark = pytest.mark.mpi

OVERLAP = (
    SETUP
    + """
log = []
from decentral.comm.mpi import MPIComm
post, finish = MPIComm.post, MPIComm.finish
MPIComm.post = lambda self, x: (log.append("send"), post(self, x))[1]
MPIComm.finish = lambda self, *a: (log.append("receive"), finish(self, *a))[1]
def events(method, **more):
    model = net()
    optimizer = dc.Decentralized(torch.optim.SGD(model.parameters(), lr=0.1), method, dc.join("ring"), **more)
    log.clear()
    for t in range(2):
        optimizer.zero_grad()
        log.append("backward")
        backward(model, t)
        optimizer.step()
    return " ".join(log)
late = "backward send receive backward send receive"
assert events(A.DSGD()) == late
assert events(A.DSGD("awc"), overlap=False) == late
assert events(A.DSGD("awc")) == "backward send receive send backward receive send"
assert events(A.DIGing()) == "backward send receive send receive send backward receive send receive send"

model = net()
optimizer = dc.Decentralized(torch.optim.SGD(model.parameters(), lr=0.1), A.DSGD("awc"), comm)
optimizer.step()
nn.init.zeros_(model[0].bias)  # while it is being sent
try:
    optimizer.step()
    raise SystemExit("sent something else than it has")
except dc.UserError as error:
    assert "overlap=False" in str(error)
print("fine")
"""
)


def test_what_does_not_need_the_gradient_is_sent_before_backward():
    passes(2, OVERLAP)


LARGE = (
    SETUP
    + """
# several blocks of columns, large and small: the same numbers as one block
import decentral.rounds.script.parameter_row as rows
def trained(method, width):
    rows._WIDTH = width
    model = net()
    model.append(nn.Linear(3, 3).double())
    groups = [{"params": model[:2].parameters()}, {"params": model[2:].parameters(), "lr": 0.05}]
    optimizer = dc.Decentralized(torch.optim.SGD(groups, lr=0.1), method, dc.join("ring"))
    for t in range(6):
        optimizer.zero_grad()
        backward(model, t)
        optimizer.step()
    return flat(model), optimizer.comm.ledger.messages, len(optimizer.row.blocks)
for method in (A.DecentLaM(), A.EXTRA(), A.DIGing(), A.PmSGD(), A.PushSum()):
    one, messages, count = trained(method, 1 << 20)
    assert count == 1
    for width in (7, 16, 33):
        cut, same, count = trained(method, width)
        assert torch.equal(one, cut) and same == messages and count > 3, (method, width, count)
print("fine")
"""
)


def test_blocks_of_columns_do_not_change_the_numbers():
    passes(2, LARGE)
