"""What scripts do with gradients, hooks, buffers of all kinds and several models, on ranks."""

import pytest
from drop_in_scripts import SETUP, passes

pytestmark = pytest.mark.mpi

KINDS = (
    SETUP
    + '''
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.optimizer import register_optimizer_step_pre_hook as for_all

def two_workers(make, method, loop, rounds=4):
    """The model of this rank: by hand, both workers in one process; and dropped in."""
    models = [net(), net()]
    optimizers = [make(m.parameters()) for m in models]
    for t in range(rounds):
        before = sum(map(flat, models)) / 2
        moves = []
        for worker, (m, o) in enumerate(zip(models, optimizers)):
            start = flat(m)
            loop(m, o, o, t, worker)
            moves.append(flat(m) - start)
        mean = sum(map(flat, models)) / 2
        for m, move in zip(models, moves):
            after = before + move if method == A.DSGD("awc") else mean.clone()
            nn.utils.vector_to_parameters(after, m.parameters())
    model = net(seed=rank)
    inner = make(model.parameters())
    optimizer = dc.Decentralized(inner, method, comm, model=model)
    for t in range(rounds):
        loop(model, optimizer, inner, t, rank)
    return flat(models[rank]), flat(model)

MAKERS = {
    "plain": lambda p: SGD(p, lr=0.1, weight_decay=0.1),
    "heavy": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, momentum=0.5),
}
METHODS = [A.DSGD(), A.DSGD("awc"), A.DecentLaM(0.0)]  # without momentum it is DSGD

# a parameter without a gradient, in some rounds, of one worker: zeros by hand, None dropped in
def missing(model, stepped, inner, t, worker):
    stepped.zero_grad()
    backward(model, t, worker)
    if t % 3 != worker:
        model[0].bias.grad = torch.zeros_like(model[0].bias) if stepped is inner else None
    stepped.step()
    assert (model[0].bias.grad is None) == (t % 3 != worker and stepped is not inner)

# a hook that halves gradients, on the inner optimizer or on all
def hooked(where):
    def halve(optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.5)

    def loop(model, stepped, inner, t, worker):
        stepped.zero_grad()
        backward(model, t, worker)
        handle = for_all(halve) if where == "all" else inner.register_step_pre_hook(halve)
        stepped.step()
        handle.remove()
    return loop

# GradScaler: in round 2 worker 1 overflows, and takes no step
def scaled(model, stepped, inner, t, worker):
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    stepped.zero_grad()
    loss = cross_entropy(model(X[worker, t]), Y[worker, t])
    scaler.scale(loss * float("inf") if (t, worker) == (2, 1) else loss).backward()
    scaler.step(stepped)
    scaler.update()

for name, make in MAKERS.items():
    for method in METHODS:
        for loop in (missing, hooked("all"), hooked("inner"), scaled):
            right, ours = two_workers(make, method, loop)
            assert (right - ours).abs().max() < 1e-12, (name, method, loop, (right - ours).abs().max())

warnings.filterwarnings("ignore", "Sparse CSR")  # is in beta, says torch
# buffers of all kinds: their mean meanwhile, then what they were; what is shared is rank 0's
KINDS = {
    "expanded": lambda k: (torch.eye(2) * k).expand(3, 2, 2),
    "one number, repeated": lambda k: torch.tensor(k).expand(4),
    "transposed": lambda k: torch.arange(6.0).view(2, 3).t() * k,
    "sparse": lambda k: (torch.eye(3) * k).to_sparse(),
    "compressed": lambda k: (torch.eye(4) * k).to_sparse_csr(),
    "half": lambda k: torch.full((3,), k).half(),
    "complex": lambda k: torch.full((3,), k * 1j),
    "conjugate": lambda k: torch.full((3,), k * 1j).conj(),
    "empty": lambda k: torch.zeros(0, 3),
}
for name, of in KINDS.items():
    model = net()
    model.register_buffer("kind", of(rank + 1.0))
    optimizer = dc.Decentralized(SGD(model.parameters(), lr=0.1), A.DSGD(), comm, model=model)
    dense = lambda b: b.to_dense() if b.layout != torch.strided else b.clone()
    assert torch.equal(dense(model.kind), dense(of(1.0))), name
    model.kind = of(rank + 1.0)
    with optimizer.averaged():
        assert torch.equal(dense(model.kind), dense(of(1.5))), name
    assert torch.equal(dense(model.kind), dense(of(rank + 1.0))), name
model.kind = torch.eye(3)[rank:].to_sparse()
try:
    optimizer.averaged().__enter__()
    raise SystemExit("a mean of what lies elsewhere")
except dc.UserError as error:
    assert "sparse buffer" in str(error)

# two models and one communicator: as if each had its own
def gan(comms):
    models = [net(1), nn.Sequential(nn.Linear(5, 3)).double()]
    made = [dc.Decentralized(SGD(m.parameters(), lr=0.1), A.PowerGossip(), c, model=m) for m, c in zip(models, comms)]
    for t in range(4):
        for m, o in zip(models, made):
            o.zero_grad()
            backward(m, t)
            o.step()
    return torch.cat([flat(m) for m in models])
assert torch.equal(gan([comm, comm]), gan([dc.join("ring"), dc.join("ring")]))

# one rank's NaN is named, once, and told again where it has come to; and who begins with another model
model = net()
optimizer = dc.Decentralized(SGD(model.parameters(), lr=0.1), A.DSGD(), comm)
if rank == 1:
    model.load_state_dict(net(3).state_dict())
for t in range(4):
    optimizer.zero_grad()
    (backward(model, t) if rank == 0 or t < 2 else (model(X[1, t]).sum() * float("nan")).backward())
    optimizer.step()
with optimizer.averaged():
    pass
print("fine")
'''
)


def test_what_scripts_do_with_gradients_hooks_buffers_and_several_models():
    said = passes(2, KINDS).stderr
    assert said.count("ranks begin with different models: 1 with another than rank 0") == 1
    assert said.count("not finite") == 2 + 1, said  # rank 0 has it in its gradient a step later
    assert "decentral: rank 1: the gradient of step 3 is not finite" in said
    assert (
        "after step 4 the models of ranks 0, 1 are not finite; rank 1's gradient was first, in step 3" in said
    )
