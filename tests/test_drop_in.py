"""The drop-in on ranks: the numbers of the same experiment in TOML, and what users' scripts do with optimizers."""

import subprocess
import sys

import pytest
from ranks import ROOT, environment, run_ranks

pytestmark = pytest.mark.mpi


def passes(ranks, code, *args):
    done = run_ranks(ranks, "-c", code, *args)
    assert done.stdout.count("fine") == ranks, done.stderr
    return done


TOML = """
import numpy as np, torch, tomllib
from torch.nn.functional import cross_entropy
import decentral as dc
from decentral.comm.mpi_world import MPIWorld
from decentral.runs.journal import Journal
from decentral.runs.reading import read
from decentral.runs.place import Here
from decentral.runs.rounds.config import RoundsRun
from decentral.problems.data.batches import EpochBatches
from decentral.runs.rounds.training import Training

TABLE = '''
name = "same"
seeds = [4]
[problem]
name = "mlp"
partition = "dirichlet"
hidden = [40]
[topology]
name = "ring"
workers = 2
[algorithm]
name = "dsgd"
[train]
lr = 0.1
rounds = 12
batch_size = 16
weight_decay = 0.01
[schedule]
name = "cosine"
'''
for name, more, dtype in [("dsgd", {}, "float32"), ("dsgd", {"variant": "awc"}, "float64"),
                          ("decentlam", {}, "float32"),
                          ("pmsgd", {}, "float32"), ("extra", {}, "float32"), ("diging", {}, "float64"),
                          ("momentum-tracking", {}, "float32"), ("gossip-pga", {"every": 3}, "float32"),
                          ("relay-sgd", {}, "float64"), ("diloco", {"every": 4}, "float32"),
                          ("power-gossip", {}, "float64"), ("d2", {}, "float32"), ("choco", {}, "float64"),
                          ("dsgd", {"variant": "awc", "decay": 0.0}, "float32")]:
    table = tomllib.loads(TABLE)
    decay = more.pop("decay", 0.0 if name in ("power-gossip", "diloco") else 0.01)
    table["algorithm"], table["train"]["dtype"] = {"name": name, **more}, dtype
    table["train"]["weight_decay"] = decay
    config = read(RoundsRun, table)
    toml = Training(config, Here(MPIWorld(), torch.device("cpu")), Journal())
    toml.run()

    comm = dc.join("ring")
    problem, train = config.problem, config.train
    _, dataset, shards = problem.made(comm.n, 4)
    shard = shards[comm.rank]
    batches = EpochBatches([len(shard)], [comm.rank], 16, 4)
    kind = getattr(torch, dtype)
    model = problem.model(dataset, 4).to(kind)
    x, y = dataset.train_x.to(kind)[shard], dataset.train_y[shard]
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=train.weight_decay)
    optimizer = dc.Decentralized(sgd, config.algorithm, comm)
    for t in range(12):
        optimizer.param_groups[0]["lr"] = config.schedule.lr(t, 12, 0.1)
        chosen = torch.from_numpy(batches.at(t)[0])
        optimizer.zero_grad()
        cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    mine = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert torch.equal(mine, toml.x[0]), (name, (mine - toml.x[0]).abs().max())
    assert np.array_equal(comm.ledger.bytes_sent, toml.comm.ledger.bytes_sent), name
    assert comm.ledger.messages == toml.comm.ledger.messages > 0
print("fine")
"""


def test_two_ranks_have_the_bits_and_bytes_of_the_same_experiment_in_toml():
    passes(2, TOML)


SETUP = """
import copy, os, sys, warnings
warnings.simplefilter("error")
import numpy as np, torch
from torch import nn
from torch.nn.functional import cross_entropy
import decentral as dc
A = dc.algorithms
comm = dc.join("ring")
rank = comm.rank
other = 1 - rank
draw = torch.Generator().manual_seed(7)
X = torch.randn(2, 40, 6, 5, generator=draw, dtype=torch.float64)
Y = torch.randint(3, (2, 40, 6), generator=draw)

def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()

def backward(model, t, worker=rank):
    loss = cross_entropy(model(X[worker, t]), Y[worker, t])
    loss.backward()
    return loss

def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])
"""

BY_HAND = (
    SETUP
    + """
# both workers by hand, in one process each: a plain torch optimizer, then the average, as a script without decentral
def by_hand(make, rounds=15, clip=None, gamma=0.9, awc=False):
    models = [net(), net()]
    optimizers = [make(m) for m in models]
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, gamma) for o in optimizers]
    for t in range(rounds):
        before = sum(flat(m) for m in models) / 2
        moves = []
        for worker, (m, o, s) in enumerate(zip(models, optimizers, schedulers)):
            o.zero_grad()
            backward(m, t, worker)
            if clip:
                nn.utils.clip_grad_norm_(m.parameters(), clip)
            start = flat(m)
            o.step()
            s.step()
            moves.append(flat(m) - start)
        mean = sum(flat(m) for m in models) / 2
        for m, move in zip(models, moves):
            nn.utils.vector_to_parameters(before + move if awc else mean.clone(), m.parameters())
    return flat(models[rank])

def dropped_in(make, rounds=15, clip=None, gamma=0.9, awc=False):
    model = net(seed=rank)  # they become rank 0's
    optimizer = dc.Decentralized(make(model), A.DSGD("awc" if awc else "atc"), comm)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
    for t in range(rounds):
        optimizer.zero_grad()
        backward(model, t)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        scheduler.step()
    return flat(model)

sgd = lambda m: torch.optim.SGD(m.parameters(), lr=0.5, weight_decay=0.01)
heavy = lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
adam = lambda m: torch.optim.Adam(m.parameters(), lr=0.02)
adamw = lambda m: torch.optim.AdamW(m.parameters(), lr=0.02, weight_decay=0.1)
two = lambda m, **first: [{"params": m[0].parameters(), **first}, {"params": m[2].parameters()}]
groups = lambda m: torch.optim.SGD(two(m, lr=0.1, weight_decay=0.2), lr=0.5)
groups_adam = lambda m: torch.optim.Adam(two(m, lr=0.0), lr=0.05)
for make in (sgd, heavy, adam, adamw, groups, groups_adam):
    for more in ({}, {"clip": 0.3}, {"awc": True}):
        torch.testing.assert_close(dropped_in(make, **more), by_hand(make, **more), rtol=1e-12, atol=1e-13)
for make in (sgd, adam, groups_adam):  # a learning rate of zero in every round but the first
    torch.testing.assert_close(dropped_in(make, gamma=0.0), by_hand(make, gamma=0.0), rtol=1e-12, atol=1e-13)
print("fine")
"""
)


def test_optimizers_schedulers_clipping_and_groups_act_as_in_a_loop_written_by_hand():
    passes(2, BY_HAND)


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


def ends(ranks, code, *args):
    return run_ranks(ranks, "-c", SETUP + code, *args, timeout=90)


REFUSED = {
    "another model": ("m = nn.Linear(5, 3 + rank)\nopt(m)", "ranks differ: rank 0 has SGD of 18 parameters"),
    "another method": ("opt(nn.Linear(5, 3), A.DecentLaM(0.5 + rank / 4))", "DecentLaM(momentum=0.75)"),
    "half on one": ("m = nn.Linear(5, 3)\nm = m.half() if rank else m\nopt(m)", "keep them in torch.float32"),
    "no such graph": ("dc.join('rng')", "topology 'rng' is not known; did you mean 'ring'?"),
    "a graph of four": ("import topologies as t\ndc.join(t.ring(4))", "the graph has 4 workers but there are 2 ranks"),
    "different graphs": ("dc.join(['ring', 'one-peer-exponential-random'][rank])", "ranks ask for different mixing"),
    "no push": (
        "comm = dc.join(np.array([[0.75, 0.25], [0.5, 0.5]]))\nopt(nn.Linear(5, 3), A.PushSum())",
        "PushSum needs columns",
    ),
    "its own matrices": ("opt(nn.Linear(5, 3), A.MATCHA())", "decentral.join(..., method=method)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_one_line_and_exit_code_2_on_all_ranks(case):
    code, said = REFUSED[case]
    opt = "opt = lambda m, method=A.DSGD(): dc.Decentralized(torch.optim.SGD(m.parameters(), lr=0.1), method, comm)\n"
    done = ends(2, opt + code)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("decentral: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in done.stderr


def test_an_error_of_one_rank_ends_the_job():
    done = ends(
        2, "if rank == 1:\n    raise RuntimeError('caught fire')\ncomm.mean(X[0, 0].reshape(1, -1))\n"
    )
    assert done.returncode == 1
    assert "decentral: rank 1: RuntimeError: caught fire" in done.stderr


@pytest.mark.parametrize("method", ["DSGD()", "DSGD('awc')", "PmSGD()"])
def test_ranks_with_different_numbers_of_batches_are_told_so(method):
    code = f"""
model = net()
optimizer = dc.Decentralized(torch.optim.SGD(model.parameters(), lr=0.1), A.{method}, comm)
for t in range(4 + 2 * rank):
    backward(model, t)
    optimizer.step()
"""
    done = ends(2, code)
    assert done.returncode == 2, done.stderr
    assert "rank 0 has ended after 4 steps" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_runs_alone_and_says_so():
    code = SETUP.replace("warnings.simplefilter", "#") + (
        "model, alone = net(), net()\n"
        "optimizer = dc.Decentralized(torch.optim.SGD(model.parameters(), lr=0.1), A.PmSGD(0.0), comm)\n"
        "plain = torch.optim.SGD(alone.parameters(), lr=0.1)\n"
        "for t in range(5):\n"
        "    for m, o in ((model, optimizer), (alone, plain)):\n"
        "        o.zero_grad(); backward(m, t); o.step()\n"
        "assert torch.equal(flat(model), flat(alone))\n"
        "print('fine')\n"
    )
    done = passes(1, code)
    assert "one process, so there is one worker and nothing is sent" in done.stderr


def test_importing_the_package_loads_nothing_else():
    code = (
        "import sys, decentral as dc\n"
        "heavy = {'torch', 'mpi4py', 'numpy', 'networkx', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert dc.algorithms.DSGD and issubclass(dc.UserError, ValueError)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=ROOT)
