"""The drop-in has the numbers of the same experiment in TOML, and of a loop by hand, on ranks; alone it says so."""

import subprocess
import sys

import pytest
from drop_in_scripts import SETUP, passes
from ranks import ROOT, environment

pytestmark = pytest.mark.mpi


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
