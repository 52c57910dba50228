"""Which optimizers step where: with the mean of gradients, and inside of DiLoCo."""

import pytest
from drop_in_scripts import SETUP, passes

pytestmark = pytest.mark.mpi

AVERAGED = (
    SETUP
    + """
def trained(make, by_hand, more=()):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    inner, comm = make(model.parameters()), dc.join("ring")
    optimizer = inner if by_hand else dc.Decentralized(inner, *more, comm)
    for t in range(5):
        optimizer.zero_grad()
        for other in range(2) if by_hand else [comm.rank]:
            torch.manual_seed(10 * t + other)
            loss = model(torch.randn(4, 5).double()).square().mean()
            (loss / 2 if by_hand else loss).backward()
        optimizer.step()
    return flat(model), comm.ledger
from decentral.optimizers import OPTIMIZERS
for make in (
    lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: OPTIMIZERS["lars"](trust=0.1).build(p, 0.1, 0.01),
):
    expected, _ = trained(make, True)
    found, ledger = trained(make, False, [A.PmSGD(0.0)])
    assert torch.allclose(found, expected, rtol=0, atol=1e-13), make
    assert ledger.state()["reduced_bytes"] == 5 * 8 * expected.numel(), ledger.state()
local, _ = trained(lambda p: torch.optim.Adam(p, lr=0.1), False, [A.LocalSGD(every=1)])
assert not torch.allclose(local, trained(lambda p: torch.optim.Adam(p, lr=0.1), True)[0], atol=1e-3)
print("fine")
"""
)


def test_optimizers_step_with_the_mean_of_gradients_where_the_method_averages_them():
    passes(2, AVERAGED)


DILOCO = (
    SETUP
    + """
from decentral.optimizers import OPTIMIZERS
EVERY, MOMENTUM, OUTER, LR = 3, 0.8, 0.6, 0.02
def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))
def backward(model, rank, t):
    torch.manual_seed(10 * t + rank)
    model(torch.randn(4, 5)).square().mean().backward()
def by_hand(make):
    models = [network() for _ in range(2)]
    inner = [make(model.parameters()) for model in models]
    slow = flat(models[0]).clone()
    u = torch.zeros_like(slow)
    for t in range(7):
        for rank, model in enumerate(models):
            inner[rank].zero_grad()
            backward(model, rank, t)
            inner[rank].step()
        if (t + 1) % EVERY == 0:
            delta = slow - (flat(models[0]) + flat(models[1])) / 2
            u = MOMENTUM * u + delta
            slow = slow - OUTER * (delta + MOMENTUM * u)
            for model in models:
                nn.utils.vector_to_parameters(slow.clone(), model.parameters())
    return flat(models[comm.rank])
comm = dc.join("ring")
for make in (
    lambda p: torch.optim.Muon(p, lr=LR),
    lambda p: OPTIMIZERS["muon"]().build(p, LR, 0.1),
    lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9),
    lambda p: torch.optim.AdamW(p, lr=LR),
):
    model = network()
    method = A.DiLoCo(every=EVERY, momentum=MOMENTUM, outer_lr=OUTER)
    optimizer = dc.Decentralized(make(model.parameters()), method, comm)
    for t in range(7):
        optimizer.zero_grad()
        backward(model, comm.rank, t)
        optimizer.step()
    assert torch.allclose(flat(model), by_hand(make), rtol=1e-5, atol=1e-6)
print("fine")
"""
)


def test_any_optimizer_makes_the_inner_steps_of_diloco():
    passes(2, DILOCO)
