"""Parameters that are frozen, unused or tied, and buffers, in scripts on ranks."""

import pytest
from drop_in_scripts import SETUP, passes

pytestmark = pytest.mark.mpi

PARTS = (
    SETUP
    + """
# frozen: made rank 0's, not sent; unused: mixed; tied: once; buffers: made rank 0's, then local
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(rank)
        self.frozen, self.unused = nn.Linear(5, 5), nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.tied, self.norm = nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5)
        self.again, self.head = self.tied, nn.Linear(5, 3)
        self.norm.running_mean.fill_(rank + 1.0)
        self.scalar = nn.Parameter(torch.tensor(rank + 1.0))

    def forward(self, x):
        return self.head(self.norm(self.again(self.tied(self.frozen(x))))) * self.scalar

model = Model().double()
optimizer = dc.Decentralized(torch.optim.SGD(model.parameters(), lr=0.1), A.DSGD(), comm, model=model)
first = model.frozen.weight.sum(), model.norm.running_mean[0], model.scalar
seen = comm.observe(np.array([[value.item() for value in first]]))
assert np.array_equal(seen[0], seen[1]) and seen[1, 1] == 1.0, seen
frozen, unused = model.frozen.weight.clone(), model.unused.weight.clone()
sent = sum(p.numel() for p in model.parameters() if p.requires_grad) * 8
assert sum(p.numel() for p in model.parameters()) * 8 == sent + 30 * 8
for t in range(5):
    optimizer.zero_grad()
    backward(model, t)
    assert model.unused.weight.grad is None
    if t == 3:
        with torch.no_grad():
            model.unused.weight += rank  # written to between backward and step: nothing is under way
    optimizer.step()
assert comm.ledger.bytes_sent[0] == 5 * sent, comm.ledger.bytes_sent
assert not optimizer.row._gathered  # torch's SGD has stepped in place: no gradient was copied
assert torch.equal(frozen, model.frozen.weight)
torch.testing.assert_close(model.unused.weight, unused + 0.5)
assert model.again.weight is model.tied.weight
local = comm.observe(model.norm.running_mean.numpy()[None].copy())
assert not np.array_equal(local[0], local[1])
whole = comm.observe(flat(model).numpy()[None].copy())
with optimizer.averaged():
    np.testing.assert_allclose(flat(model).numpy(), whole.mean(0), rtol=1e-15)
    np.testing.assert_allclose(model.norm.running_mean.numpy(), local.mean(0), rtol=1e-15)
    assert int(model.norm.num_batches_tracked) == 5
assert np.array_equal(flat(model).numpy(), whole[rank]) and np.array_equal(model.norm.running_mean.numpy(), local[rank])
assert comm.ledger.bytes_sent[0] == 5 * sent

# a closure is called with gradients, and its loss is handed back; a scheduler of the inner optimizer acts as well
inner = torch.optim.SGD(net().parameters(), lr=0.1)
model = net()
inner = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(inner, 1, 0.5)
optimizer = dc.Decentralized(inner, A.DSGD("awc"), comm)
def closure():
    optimizer.zero_grad()
    return backward(model, 0)
start = flat(model)
assert optimizer.step(closure).requires_grad
scheduler.step()
assert optimizer.param_groups[0]["lr"] == 0.05 and not torch.equal(start, flat(model))
try:
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
except dc.UserError as error:
    assert "add it to the inner optimizer" in str(error)

# a graph kept over a step is refused as with torch's own optimizers
loss = backward_graph = cross_entropy(model(X[rank, 0]), Y[rank, 0])
loss.backward(retain_graph=True)
optimizer.step()
try:
    loss.backward()
    raise SystemExit("old activations met new weights")
except RuntimeError as error:
    assert "modified by an inplace operation" in str(error)
print("fine")
"""
)


def test_frozen_unused_and_tied_parameters_and_buffers(tmp_path):
    passes(2, PARTS)
