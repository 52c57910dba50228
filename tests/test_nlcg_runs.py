"""Rules that hear losses and act on whole models, in all places: rounds, without rounds, stages, scripts, on ranks."""

import numpy as np
import pytest
import torch
from asynchronous_workers import models
from command import decentral, metrics
from cut_short import run_all
from nlcg_loop import Loop
from ranks import run_ranks
from test_drop_in_alone import X, Y, dropped_in, net
from test_metrics import HERE
from test_programs_local import STEPS, data, module, train
from test_rule_runs import OWN_CLOCK, played_by, write
from test_rule_runs import run as run_kind
from test_rules import DECAY, digits
from torch import nn
from torch.nn.functional import cross_entropy

from decentral.algorithms import DSGD, DecentLaM
from decentral.algorithms.asynchronous import ADPSGD, AsyncPushSum
from decentral.comm import LocalComm
from decentral.errors import UserError
from decentral.optimizers import NLCG
from decentral.runs.journal import Journal
from decentral.runs.rounds.training import Training
from decentral.stages.programs.backprop import BackProp
from decentral.stages.programs.gpipe import GPipe

RULE = NLCG("polak-ribiere", period=2, threshold=0.1)


def shrunk(*loops):
    """Whether the loss has risen and fallen: steps were shortened, taken back in part, and some were not."""
    trace = [step for one in loops for step in one.trace]
    return min(base for _, base, *_ in trace) < 1 and any(back for *_, back, _ in trace)


# --------------------------------------------------------------------------------------------------------- in rounds


@pytest.mark.parametrize("method", ["dsgd", "pmsgd", "decentlam"])
@pytest.mark.parametrize("problem", [{"name": "mlp", "hidden": [8]}, {"name": "quadratic", "diagonal": True}])
def test_workers_of_rounds_are_plain_loops_with_their_own_losses(tmp_path, problem, method):
    momentum, lr = {} if method == "dsgd" else {"momentum": 0.0}, 8.0 if method == "pmsgd" else 4.0
    config = digits(
        tmp_path, problem=problem, topology={"workers": 3}, algorithm={"name": method, **momentum},
        optimizer={"name": "nlcg", "update": "polak-ribiere", "period": 2, "threshold": 0.1},
        schedule={"name": "cosine"},
        train={"lr": lr, "rounds": 14, "dtype": "float64", "weight_decay": DECAY, "batch_size": 16},
    )  # fmt: skip
    training = Training(config, HERE, Journal())
    objective, comm = config.problem.build(training.objective.place), LocalComm(config.topology.mixing())
    n, x = (1 if method == "pmsgd" else 3), objective.start().expand(3, -1).clone()
    loops = [Loop(row, RULE, DECAY) for row in x[:n]]
    for t in range(14):
        g = torch.cat([part for _, part in objective.gradient(x, t)], dim=1)
        of = objective.losses
        if method == "pmsgd":
            g, of = g.mean(0, keepdim=True), of.mean(0, keepdim=True)
        for i, one in enumerate(loops):
            one.step(g[i], of[i], config.schedule.lr(t, 14, lr))
        x = torch.stack([one.x for one in loops]).expand(3, -1).clone()
        x = x if method == "pmsgd" else comm.mix(x)
        for i, one in enumerate(loops):
            one.x = x[i].clone()
    assert training.run().status == "finished"
    torch.testing.assert_close(training.x, x, rtol=0, atol=1e-10)
    assert shrunk(*loops)


# ------------------------------------------------------------------------------------------------------ without rounds


def test_a_worker_without_rounds_is_told_its_losses():
    for method in (ADPSGD(), AsyncPushSum()):
        rule = NLCG(period=1, threshold=0.01)
        play, x, a, c = played_by(rule.decayed(DECAY), method, 1, rounds=20)
        loop = Loop(x[0], rule, DECAY)
        for _ in range(play.workers[0].t):
            # the loss that test double has, which falls too slowly for this threshold
            loop.step(a[0] * (loop.x - c[0]), (a[0] * (loop.x - c[0]) ** 2).sum() / 2, 0.02)
        torch.testing.assert_close(torch.tensor(models(play))[0], loop.x, rtol=0, atol=1e-10)
        play, *_ = played_by(rule, method, 3, rounds=20)
        told = [float(worker.rule_state.loss) for worker in play.workers]
        assert len({*told}) == 3
        assert min(told) > 0


# ----------------------------------------------------------------------------------------------------------- in stages


@pytest.mark.parametrize("program", [BackProp(), GPipe(2)], ids=repr)
def test_one_stage_alone_is_a_plain_loop(program):
    rule, dtype = NLCG(period=1, threshold=0.1), torch.float64
    whole, *_ = train(program, 1, dtype, lambda p: rule.build(p, 2.0, DECAY))
    plain, batches = module(dtype), data(dtype)
    loop = Loop(nn.utils.parameters_to_vector(plain.parameters()).detach(), rule, DECAY)
    for t in range(STEPS):
        nn.utils.vector_to_parameters(loop.x, plain.parameters())
        x, y = batches(t)
        loss = cross_entropy(plain(x), y)
        g = torch.autograd.grad(loss, list(plain.parameters()))
        loop.step(torch.cat([part.flatten() for part in g]), loss.detach(), 2.0)
    found = nn.utils.parameters_to_vector(whole.parameters()).detach()
    torch.testing.assert_close(found, loop.x, rtol=0, atol=1e-10)
    assert shrunk(loop)


@pytest.mark.parametrize("method", ["dsgd", "pmsgd"])
def test_one_stage_of_several_workers_is_rounds(home, method):
    more = {"optimizer": {"name": "nlcg", "period": 1}, "algorithm": {"name": method}}
    more["train"] = {"lr": 1.0}
    rounds = run_kind(
        write(home / "x.toml", "rounds", problem={"name": "mlp", "hidden": [8, 8]}, **more), home / "r"
    )
    stages = run_kind(write(home / "y.toml", "gossip", stages={"count": 1}, **more), home / "s")
    assert [row["round"] for row in rounds[1:]] == [row["round"] for row in stages[1:]]
    for a, b in zip(rounds[1:], stages[1:], strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-9)
    assert float(stages[-1]["train_loss"]) != float(stages[0]["train_loss"])


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("stages", {}, "needs all layers and the loss of a batch in one place, and a stage has a part"),
        ("gossip", {}, "use stages.count = 1, or a rule of each layer such as lamb"),
        (
            "stages",
            {"stages": {"count": 1}, "program": {"name": "local"}},
            "those of program.name = 'local' are for others than the network's own",
        ),
        (
            "nodes",
            {},
            "a node has a part of them; use a rule of each layer such as lamb, or remove [dataflow]",
        ),
        ("rounds", {"train": {"compile": True}}, "or do without [optimizer]"),
        ("rounds", {"optimizer": {"period": 0}}, "[optimizer] period = 0 must be at least 1; 5 is usual"),
        ("rounds", {"optimizer": {"monitor": "line"}}, "monitor"),
        ("rounds", {"optimizer": {"name": "arsg", "mu": 2.0}}, "mu = 2.0 must be in [0, 1]"),
    ],
)
def test_refusals(home, kind, change, words):
    change = {**change, "optimizer": {"name": "nlcg", **change.get("optimizer", {})}}
    said = decentral("run", write(home / "x.toml", kind, **change), "--out", "out")
    assert (said.code, words in said.err.replace("\n", " "), len(said.err) < 300) == (2, True, True), said.err
    assert not (home / "out").exists()


# ---------------------------------------------------------------------------------------------------------- in scripts


def trained(optimizer, model, rounds):
    for t in rounds:

        def closure(t=t):
            optimizer.zero_grad()
            loss = cross_entropy(model(X[t]), Y[t])
            loss.backward()
            return loss

        assert float(optimizer.step(closure).detach()) > 0


@pytest.mark.parametrize("method", [DSGD(), DSGD("awc"), DecentLaM(0.0)], ids=repr)
def test_in_a_script_one_worker_is_the_optimizer_by_itself(method):
    ours, alone = net(), net()
    dropped = dropped_in(ours, method, RULE.build(ours.parameters(), 1.0, DECAY))
    plain = RULE.build(alone.parameters(), 1.0, DECAY)
    trained(dropped, ours, range(8))
    trained(plain, alone, range(8))
    for p, q in zip(ours.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)
    assert float(next(iter(plain.state.values()))["base"]) < 1


def test_a_script_that_tells_no_loss_is_told_what_to_do():
    model = net()
    dropped = dropped_in(model, None, RULE.build(model.parameters(), 1.0, 0.0))
    before = [p.detach().clone() for p in model.parameters()]
    cross_entropy(model(X[0]), Y[0]).backward()
    for step in (dropped.step, lambda: dropped.step(lambda: None)):
        with pytest.raises(UserError, match=r"NLCG needs the loss of each batch; call step\(closure\)"):
            step()
    assert all(map(torch.equal, model.parameters(), before))
    dropped.inner.hear(1.0)
    dropped.step()


SCRIPT = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
import decentral as dc
from decentral.optimizers import NLCG
from nlcg_loop import Loop

comm = dc.join("ring")
A, rank = dc.algorithms, comm.rank
draw = torch.Generator().manual_seed(7)
X = torch.randn(2, 12, 6, 5, generator=draw, dtype=torch.float64)
Y = torch.randint(3, (2, 12, 6), generator=draw)

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()

def found(model, worker, t):
    loss = cross_entropy(model(X[worker, t]), Y[worker, t])
    loss.backward()
    return loss

def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

def at(x, worker, t):
    model = net()
    nn.utils.vector_to_parameters(x, model.parameters())
    loss = cross_entropy(model(X[worker, t]), Y[worker, t])
    g = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.flatten() for part in g]), loss.detach()

rule = NLCG(period=1)
for method in (A.DSGD(), A.PmSGD(0.0)):
    model = net()
    optimizer = dc.Decentralized(rule.build(model.parameters(), 1.0, 0.01), method, comm)
    loops = [Loop(flat(net()), rule, 0.01) for _ in range(2)]
    for t in range(12):
        optimizer.zero_grad()
        optimizer.step(lambda: found(model, rank, t))
        given = [at(one.x, i, t) for i, one in enumerate(loops)]
        if isinstance(method, A.PmSGD):
            given = [((given[0][0] + given[1][0]) / 2, (given[0][1] + given[1][1]) / 2)] * 2
        for one, (g, loss) in zip(loops, given):
            one.step(g, loss, 1.0)
        if isinstance(method, A.DSGD):
            loops[0].x = loops[1].x = (loops[0].x + loops[1].x) / 2
    torch.testing.assert_close(flat(model), loops[rank].x, rtol=0, atol=1e-10)
    assert min(base for one in loops for _, base, *_ in one.trace) < 1

# of averaged gradients any optimizer's step is that of all workers alike, also where one has overflown; of plain SGD
# that one's weight decay is 0 too
for make in (lambda p: torch.optim.Adam(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)):
    model, alone = net(), net()
    optimizer, plain = dc.Decentralized(make(model.parameters()), A.PmSGD(0.0), comm), make(alone.parameters())
    before = comm.ledger.bytes_sent.tolist()
    for t in range(5):
        optimizer.zero_grad()
        found(model, rank, t)
        if t == 2 and rank == 1:
            optimizer.found_inf = 1.0
        optimizer.step()
        optimizer.__dict__.pop("found_inf", None)
        plain.zero_grad()
        for worker in (0, 1):
            if not (t == 2 and worker == 1):
                found(alone, worker, t)
        for p in alone.parameters():
            p.grad /= 2
        plain.step()
    torch.testing.assert_close(flat(model), flat(alone), rtol=0, atol=1e-12)
    assert comm.ledger.bytes_sent.tolist() == [sent + 5 * flat(model).numel() * 8 for sent in before]
print("fine")
"""


@pytest.mark.mpi
def test_on_two_ranks_scripts_are_plain_loops_and_averaged_gradients_come_first():
    done = run_ranks(2, "-c", "import sys; sys.path.insert(0, 'tests')\n" + SCRIPT)
    assert done.stdout.count("fine") == 2, done.stderr


# ------------------------------------------------------------------------------------------------ resumed, and on ranks

WHOLE = {
    "problem": {"name": "logistic-regression"},
    "topology": {"name": "ring", "workers": 4},
    "train": {
        "lr": 1.0,
        "rounds": 12,
        "batch_size": 8,
        "dtype": "float32",
        "oracle": "loop",
        "record_every": 3,
        "checkpoint_every": 4,
        "weight_decay": 0.01,
    },
}
EXPERIMENTS = {
    "nlcg": {**WHOLE, "optimizer": {"name": "nlcg", "update": "polak-ribiere", "period": 2}},
    "averaged": {**WHOLE, "algorithm": {"name": "pmsgd"}, "optimizer": {"name": "nlcg", "monitor": "online"}},
    "arsg": {**WHOLE, "algorithm": {"name": "decentlam"}, "optimizer": {"name": "arsg", "boost_at": 6}},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of their runs: see cut_short."""
    return run_all(tmp_path_factory.mktemp("rules"), EXPERIMENTS)


def seen(folder):
    ((_, rows),) = metrics(folder).items()
    return [{k: v for k, v in row.items() if k not in OWN_CLOCK} for row in rows]


@pytest.mark.mpi
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_same_bits_on_ranks_and_where_a_run_was_cut_short(done, name):
    alone = seen(done / "1" / name)
    assert seen(done / "2" / name) == seen(done / "4" / name) == seen(done / "cut" / name) == alone
    assert np.isfinite(float(alone[-1]["train_loss"]))
    assert len({row["train_loss"] for row in alone}) == 5
