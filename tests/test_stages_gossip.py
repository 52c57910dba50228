"""Stages of several workers: what gossip between the same stages equals, sends and refuses, under both drivers."""

import copy
import csv
import dataclasses
import itertools
import json
import pickle

import pytest
import torch
from command import decentral
from ranks import decentral as launch
from torch import nn
from torch.nn.functional import cross_entropy

import topologies
from decentral.algorithms import DSGD, DecentLaM, DmSGD, PmSGD
from decentral.comm import LocalComm
from decentral.runtime import DeadlockError, Recv, VirtualClock
from decentral.runtime.requests import StageNumber
from decentral.stages.cut import cut_evenly
from decentral.stages.layers import network_of
from decentral.stages.peers import Peers, PeerStage
from decentral.stages.programs import PROGRAMS
from decentral.stages.programs.backprop import BackProp
from decentral.stages.programs.local import Local
from decentral.stages.stage import Stage

DEPTH, WIDTH, INPUTS, CLASSES, BATCH, STEPS, LR = 4, 6, 5, 3, 4, 6, 0.1
RING = topologies.mixing_matrix(topologies.ring(4), "metropolis")
IRREGULAR = topologies.mixing_matrix(topologies.path(4), "metropolis")
COMPLETE = topologies.mixing_matrix(topologies.complete(6), "metropolis")


class LinearHead(nn.Linear):
    """A linear local head."""

    def loss(self, h, labels, inputs):
        del inputs
        return cross_entropy(self(h), labels)


def module():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes = [INPUTS] + [WIDTH] * DEPTH
        layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)).double()


def make_head(name, layer):
    del name
    with torch.random.fork_rng():
        torch.manual_seed(100 + layer)
        return LinearHead(WIDTH, CLASSES).double()


def batch(worker, t):
    draw = torch.Generator().manual_seed(1000 * worker + t)
    x = torch.randn(BATCH, INPUTS, dtype=torch.float64, generator=draw)
    return x, torch.randint(CLASSES, (BATCH,), generator=draw)


def train(program, method, mixing, stages=2, batches=batch, weight_decay=0.0):
    """The workers' trained modules, the trace, and the stages, by worker."""
    n = LocalComm(mixing, check=False).n
    peers, spans = Peers(mixing, method, weight_decay), cut_evenly(DEPTH, stages)
    modules = [module() for _ in range(n)]
    made = [
        PeerStage(
            i, peers, k, spans, network_of(whole), lambda t, i=i: batches(i, t), STEPS,
            lr=lambda t: LR / (1 + t), make_head=make_head,
        )
        for i, whole in enumerate(modules) for k in range(stages)
    ]  # fmt: skip
    cost = lambda stage, kind: 1.0 + 0.1 * (stage % 3)  # noqa: E731 - workers are not equally fast
    trace = VirtualClock({s.number: program.run(s) for s in made}, cost).run()
    return modules, trace, [made[i * stages : (i + 1) * stages] for i in range(n)]


def flat(whole):
    return torch.cat([p.detach().flatten() for p in whole.parameters()])


def rounds_of_whole_models(method, mixing, weight_decay=0.0):
    """The same by autograd through whole models, and rounds of (n, d)."""
    comm, whole = LocalComm(mixing, check=False), module()
    x = flat(whole).expand(comm.n, -1).clone()
    state = method.init(x, comm)
    for t in range(STEPS):
        gradients = []
        for i in range(comm.n):
            nn.utils.vector_to_parameters(x[i].clone(), whole.parameters())
            inputs, labels = batch(i, t)
            found = torch.autograd.grad(cross_entropy(whole(inputs), labels), list(whole.parameters()))
            gradients.append(torch.cat([g.flatten() for g in found]))
        g = torch.stack(gradients) + weight_decay * x
        x, state = method.step(x, state, g, comm.at(t), LR / (1 + t))
    return x, comm.ledger


METHODS = [DSGD(), DmSGD(), DmSGD(variant="doubly-averaged"), DecentLaM(), PmSGD(nesterov=True)]
GRAPHS = {
    "ring": RING,
    "irregular": IRREGULAR,
    "schedule": topologies.one_peer_exponential(4),
    "complete": COMPLETE,
    "alone": [[1.0]],
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_stages_that_gossip_are_rounds_of_whole_models(method, graph):
    mixing = GRAPHS[graph]
    modules, _, stages = train(BackProp(), method, mixing, stages=2, weight_decay=0.01)
    expected, ledger = rounds_of_whole_models(method, mixing, 0.01)
    found = torch.stack([flat(whole) for whole in modules])
    # the last bits: a processor rounds the few elements behind its last whole vector otherwise than those in it
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert [sum(s.comm.ledger.bytes_sent[0] for s in own) for own in stages] == pytest.approx(
        ledger.bytes_sent.tolist(), rel=1e-15
    )


@pytest.mark.parametrize("mixing", [RING, IRREGULAR, COMPLETE], ids=["ring", "path", "complete"])
@pytest.mark.parametrize("method", [DmSGD(variant="doubly-averaged"), PmSGD()], ids=repr)
def test_the_ledger_is_what_went_over_the_channels(method, mixing):
    _, trace, stages = train(Local(), method, mixing)
    messages = 0
    for own in stages:
        for stage in own:
            sent = {
                c: size
                for c, size in trace.channel_bytes.items()
                if c.source == stage.number and c.name in ("gossip", "all-reduce")
            }
            learned = sum(p.numel() for p in stage.learning)
            assert (
                learned > sum(p.numel() for p in stage.modules.parameters()) or stage.last
            )  # its local heads too
            n, degree = stage.comm.n, int(stage.comm.plan.out_degree[0])
            vectors = 2 * (n - 1) / n if isinstance(method, PmSGD) else 2 * degree
            assert sum(sent.values()) == pytest.approx(STEPS * vectors * learned * 8, abs=8 * STEPS * 2 * n)
            if not isinstance(method, PmSGD):
                assert sum(sent.values()) == stage.comm.ledger.bytes_sent[0]
            assert sum(trace.channel_messages[c] for c in sent) == stage.comm.ledger.messages
            messages += stage.comm.ledger.messages
    assert messages


def test_exact_gossip_after_local_steps_is_local_training_on_all_the_workers_samples():
    program, n = Local(blocks="chunked", size=2), 6
    modules, _, _ = train(program, DSGD(), COMPLETE)
    whole, spans = module(), cut_evenly(DEPTH, 2)
    together = lambda t: tuple(map(torch.cat, zip(*(batch(i, t) for i in range(n)), strict=True)))  # noqa: E731
    alone = [
        Stage(
            k, spans, network_of(whole), lambda p: torch.optim.SGD(p, lr=LR), together, STEPS,
            lr=lambda t: LR / (1 + t), make_head=make_head,
        )
        for k in range(2)
    ]  # fmt: skip
    VirtualClock({s.number: program.run(s) for s in alone}, lambda *_: 1.0).run()
    for worker in modules:
        torch.testing.assert_close(flat(worker), flat(whole), rtol=0, atol=1e-14)


SETTINGS = {"local": {"blocks": "overlapping"}, "penalty": {"setting": "batch"}, "block-admm": {"zeta": 0.1}}
GOSSIPING = [name for name, program in PROGRAMS.items() if program.lockstep and not program.across]


@pytest.mark.parametrize("name", GOSSIPING)
def test_every_program_gossips_and_equal_workers_stay_one_pipeline(name):
    same = lambda i, t: batch(0, 0)  # noqa: E731 - (a + a) / 2 = a
    program = PROGRAMS[name](**SETTINGS.get(name, {}))
    pair = topologies.mixing_matrix(topologies.complete(2), "metropolis")
    modules, trace, _ = train(program, DmSGD(momentum=0.5), pair, batches=same)
    whole, spans = module(), cut_evenly(DEPTH, 2)
    alone = [
        Stage(
            k, spans, network_of(whole), lambda p: torch.optim.SGD(p, lr=LR, momentum=0.5),
            lambda t: same(0, t), STEPS, lr=lambda t: LR / (1 + t), make_head=make_head,
        )
        for k in range(2)
    ]  # fmt: skip
    VirtualClock({s.number: program.run(s) for s in alone}, lambda *_: 1.0).run()
    assert not torch.equal(flat(whole), flat(module()))
    assert torch.equal(flat(modules[0]), flat(modules[1]))
    torch.testing.assert_close(flat(modules[0]), flat(whole), rtol=0, atol=1e-13)
    assert any(c.name == "gossip" for c in trace.channel_bytes)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """x_i = x_i - lr g_i plus the differences to what each neighbour sent along its edge: needs ``exchange``."""

    def init(self, x, comm):
        return ()

    def step(self, x, state, g, comm, lr):
        x = x - lr * g
        sent = x[[i - comm.rows.start for i, _ in comm.edges_out.tolist()]]
        for (_, i), row in zip(comm.edges_in.tolist(), comm.exchange(sent), strict=True):
            x[i - comm.rows.start] += 0.1 * (row - x[i - comm.rows.start])
        return x, state


def test_a_method_of_edges_runs_in_stages_too():
    modules, _, _ = train(BackProp(), Neighbours(), IRREGULAR)
    expected, _ = rounds_of_whole_models(Neighbours(), IRREGULAR)
    assert torch.equal(torch.stack([flat(whole) for whole in modules]), expected)


def test_a_stage_waits_for_its_own_neighbours_only():
    """On a path, what the slow worker 0 delays is as far away in steps as the workers are in edges."""
    slow = 50.0
    peers = Peers(IRREGULAR, DSGD())
    spans = cut_evenly(DEPTH, 2)
    stages = [
        PeerStage(i, peers, k, spans, network_of(module()), lambda t, i=i: batch(i, t), 3, lr=lambda _: LR,
                  make_head=make_head)
        for i in range(4) for k in range(2)
    ]  # fmt: skip
    ends = {}
    clock = VirtualClock(
        {s.number: Local(blocks="chunked").run(s) for s in stages},
        lambda number, kind: slow if number < 2 and kind == "forward" else 0.01 * (kind != "update"),
        on_done=lambda number, t: ends.setdefault((number, t), clock.now),
    )
    clock.run()
    assert all(ends[2 * worker, t] < slow for worker in (1, 2, 3) for t in range(worker - 1))
    assert all(ends[2 * worker, worker - 1] > slow for worker in (1, 2, 3))


def test_numbers_read_as_what_they_are_and_travel():
    number = StageNumber(2, 1, 3)
    assert (number, str(number), f"{number}") == (7, "1 of worker 2", "1 of worker 2")
    back = pickle.loads(pickle.dumps(number))
    assert (back, back.worker, back.stage, str(back)) == (7, 2, 1, str(number))
    assert json.dumps({"tid": number}) == '{"tid": 7}'


def test_a_deadlock_names_stage_and_worker():
    stage = PeerStage(
        1, Peers(RING, DSGD()), 0, cut_evenly(DEPTH, 2), network_of(module()), None, 1, lr=lambda _: LR
    )

    def waits():
        yield Recv(stage.from_next("never"))

    with pytest.raises(
        DeadlockError, match=r"stage 0 of worker 1 waits .* from stage 1 of worker 1 to stage 0 of"
    ):
        VirtualClock({stage.number: waits()}, lambda *_: 1.0).run()


RUN = """
[problem]
name = "mlp"
hidden = [16, 16, 16, 16]
partition = "dirichlet"
alpha = 0.5
[stages]
count = 2
[program]
name = "local"
[topology]
name = "ring"
workers = 4
[algorithm]
name = "dmsgd"
[train]
lr = 0.05
rounds = 8
batch_size = 16
record_every = 4
dtype = "float64"
"""


def recorded(out):
    (folder,) = (out / "runs").iterdir()
    with (folder / "metrics.csv").open(newline="") as file:
        lines = [
            {k: v for k, v in r.items() if k not in ("wall_s", "simulated_s", "mpi_bytes_sent")}
            for r in csv.DictReader(file)
        ]
    return lines, json.loads((folder / "boundaries.json").read_text())


@pytest.mark.mpi
@pytest.mark.parametrize("change", [("", ""), ('"dmsgd"', '"pmsgd"'), ('"local"', '"1f1b"')], ids=str)
def test_metrics_and_bytes_are_bit_equal_on_one_two_and_four_ranks(tmp_path, change):
    path = tmp_path / "x.toml"
    path.write_text(RUN.replace(*change) if change[0] else RUN)
    found = {}
    for ranks in (1, 2, 4):
        done = launch("run", path, "--out", tmp_path / f"on{ranks}", ranks=ranks, drawn=False)
        assert done.returncode == 0, done.stderr
        found[ranks] = recorded(tmp_path / f"on{ranks}")
    lines, boundaries = found[1]
    assert float(lines[-1]["consensus_sq"]) > 0 or "pmsgd" in change[1]
    assert {b["name"] for b in boundaries} >= {"activations"}
    assert found[2] == found[1]
    assert found[4] == found[1]


@pytest.mark.slow
def test_a_run_measures_workers_and_their_average(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(RUN)
    said = decentral("run", "x.toml", "--out", "out")
    assert said.code == 0, said.err
    lines, boundaries = recorded(tmp_path / "out")
    last = {k: float(v) for k, v in lines[-1].items()}
    assert last["samples"] == 8 * 16 * 4
    assert last["test_accuracy_worker_min"] <= last["test_accuracy_worker_mean"] <= 1
    assert last["consensus_sq"] > 0
    sizes = {b["name"]: b["bytes"] for b in boundaries}
    assert sizes["activations"] == 8 * 16 * 16 * 8
    again = decentral("run", *(tmp_path / "out" / "runs").glob("*/config.toml"), "--out", "again")
    assert again.code == 0, again.err
    assert recorded(tmp_path / "again") == (lines, boundaries)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('[topology]\nname = "ring"\nworkers = 4\n', "", "[algorithm] needs [topology]"),
        ('[algorithm]\nname = "dmsgd"\n', "", "[topology] needs [algorithm]"),
        ('name = "local"', 'name = "decoupled"', "cannot gossip"),
        ("workers = 4", "workers = 2000", "partition over 2000 workers"),
        ("workers = 4", "workers = 0", "topology.workers = 0"),
    ],
)
def test_refusals(tmp_path, monkeypatch, before, after, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(RUN.replace(before, after))
    said = decentral("run", "x.toml", "--out", "out")
    assert said.code == 2
    assert words in said.err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_batch_norm_statistics_stay_a_workers_own():
    whole = nn.Sequential(
        nn.Linear(INPUTS, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)
    )
    modules = [copy.deepcopy(whole).double() for _ in range(4)]
    peers = Peers(RING, DSGD())
    stages = [
        PeerStage(i, peers, 0, [range(1)], network_of(m), lambda t, i=i: batch(i, t), 2, lr=lambda _: LR)
        for i, m in enumerate(modules)
    ]
    VirtualClock({s.number: BackProp().run(s) for s in stages}, lambda *_: 1.0).run()
    means = [m[1].running_mean for m in modules]
    assert all(not torch.equal(means[0], other) for other in means[1:])
