"""A script goes on from its state, on ranks."""

import pytest
from drop_in_scripts import SETUP, passes

pytestmark = pytest.mark.mpi

RESUME = (
    SETUP
    + """
import io
def make(method, inner):
    model = net(seed=rank)
    optimizer = dc.Decentralized(inner(model), method, comm)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.7)

def train(parts, rounds):
    model, optimizer, scheduler = parts
    for t in rounds:
        optimizer.zero_grad()
        backward(model, t)
        optimizer.step()
        scheduler.step()

for method, inner in [
    (A.DecentLaM(0.8), lambda m: torch.optim.SGD(m.parameters(), lr=0.1)),
    (A.EXTRA(), lambda m: torch.optim.SGD(m.parameters(), lr=0.1)),           # a message is under way
    (A.DSGD("awc"), lambda m: torch.optim.Adam(m.parameters(), lr=0.01)),
    (A.RelaySGD(), lambda m: torch.optim.SGD(m.parameters(), lr=0.1)),
    (A.SlowMo(every=3), lambda m: torch.optim.SGD(m.parameters(), lr=0.1)),
]:
    comm = dc.join("ring")
    whole = make(method, inner)
    train(whole, range(10))
    ledger = comm.ledger.state()
    comm = dc.join("ring")
    first = make(method, inner)
    train(first, range(6))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    train(first, range(6, 8))  # a checkpoint disturbs nothing, and what comes later does not change it
    comm = dc.join("ring")
    again = make(method, inner)
    train(again, range(3))  # it need not be fresh
    file.seek(0)
    for part, kept in zip(again, torch.load(file)):
        part.load_state_dict(kept)
    train(again, range(6, 10))
    assert torch.equal(flat(whole[0]), flat(again[0])), method
    assert again[1].t == 10 and again[1].param_groups[0]["lr"] == whole[1].param_groups[0]["lr"]
    now = comm.ledger.state()
    assert all(np.array_equal(ledger[key], now[key]) for key in ledger if key != "mpi_bytes"), (ledger, now)

state = again[1].state_dict()
for change, said in [({"rank": 1 - rank}, "give each rank its own"), ({"model_crc32": 1}, "model.load_state_dict"),
                     ({"method": "DSGD()"}, "method"), ({"rounds": 3 + rank}, "different rounds")]:
    try:
        again[1].load_state_dict(state | change)
        raise SystemExit("loaded")
    except dc.UserError as error:
        assert said in str(error), error
print("fine")
"""
)


def test_a_script_goes_on_from_its_state_bit_for_bit():
    passes(2, RESUME)
