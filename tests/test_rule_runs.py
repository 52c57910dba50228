"""Update rules in all kinds of run: without rounds, in stages and nodes, from the command line, on ranks, resumed."""

import tomllib

import numpy as np
import pytest
import test_stages_gossip
import tomli_w
import torch
from asynchronous_workers import models, played
from command import decentral, metrics
from dataflow_networks import Chain, play, same_bits
from everywhere import compare, run_all_everywhere
from test_methods import gradients
from test_programs_local import DEPTH, STEPS, backprop_by_torch, data, module, same, train
from test_rules import DECAY, RULES, start, torch_s
from test_stages_gossip import GRAPHS, flat, rounds_of_whole_models
from torch import nn
from torch.nn.functional import cross_entropy

import topologies
from decentral.algorithms import DSGD, DecentLaM, DmSGD
from decentral.algorithms.asynchronous import ADPSGD, AsyncPushSum
from decentral.dataflow.updates import Updates
from decentral.optimizers import SGD, AdamW
from decentral.rounds.ruled import Ruled
from decentral.runtime import VirtualClock
from decentral.stages.cut import cut_evenly
from decentral.stages.layers import network_of
from decentral.stages.peers import Peers, PeerStage
from decentral.stages.programs.backprop import BackProp
from decentral.stages.stage import Stage

# ------------------------------------------------------------------------------------------------------ without rounds


def played_by(rule, method, n, rounds=12, **more):
    mixing = np.ones((1, 1)) if n == 1 else topologies.mixing_matrix(topologies.ring(n), "uniform")
    a, c = gradients(n, 6, 1, seed=3)[0].abs().numpy(), gradients(n, 6, 1, seed=4)[0].numpy()
    x = start(n, 6).numpy()
    play = played(method, mixing, x, rounds, lr=0.02, a=a, c=c, rule=rule, **more)
    return play, torch.tensor(x), torch.tensor(a), torch.tensor(c)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_worker_without_rounds_makes_torch_s_step(rule):
    for method, exact in ((ADPSGD(), True), (AsyncPushSum(), isinstance(rule, SGD))):
        play, x, a, c = played_by(rule.decayed(DECAY), method, 1)
        p = nn.Parameter(x.clone())
        step = torch_s(rule, [p], 0.02, DECAY)
        for _ in range(play.workers[0].t):
            p.grad = a * (p.detach() - c)
            step.step()
        assert play.workers[0].t >= 12
        torch.testing.assert_close(
            torch.tensor(models(play)), p.detach(), rtol=0, atol=0 if exact and method == ADPSGD() else 1e-13
        )


MOVED = []


class Watched(AdamW):
    """Notes how far each step has moved x."""

    def step_(self, x, state, g, layout, lr):
        before = x.clone()
        state = super().step_(x, state, g, layout, lr)
        MOVED.append(x - before)
        return state


def test_without_rounds_the_rule_s_steps_and_averages_are_all_that_moves_models():
    MOVED.clear()
    play, x, *_ = played_by(Watched().decayed(DECAY), ADPSGD(), 3, rounds=30)
    assert len(MOVED) == sum(worker.t for worker in play.workers) >= 90
    # averages are made by displacements, which keep the sum; each of the steps rounds it once or twice
    found, expected = torch.tensor(models(play)).sum(0), x.sum(0) + torch.cat(MOVED).sum(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert torch.cat(MOVED).abs().max() > 0.01
    assert max(worker.rule_state.steps for worker in play.workers) == max(worker.t for worker in play.workers)


# ----------------------------------------------------------------------------------------------------------- in stages


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_stages_make_torch_s_step(rule, stages):
    whole, *_ = train(BackProp(), stages, optimizer=lambda p: rule.build(p, 0.01, DECAY))
    same(whole, backprop_by_torch(optimizer=lambda p: torch_s(rule, p, 0.01, DECAY)))


@pytest.mark.parametrize("graph", ["ring", "irregular", "alone"])
@pytest.mark.parametrize("method", [DSGD(), DmSGD(), DecentLaM()], ids=repr)
def test_stages_that_gossip_ask_the_rule_as_rounds_do(method, graph):
    mixing, method = GRAPHS[graph], Ruled(method, AdamW(0.8, 0.9).decayed(DECAY))
    modules, _, stages = test_stages_gossip.train(BackProp(), method, mixing)
    expected, _ = rounds_of_whole_models(method, mixing)
    found = torch.stack([flat(whole) for whole in modules])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert stages[0][0].state.rule.steps == test_stages_gossip.STEPS
    assert [span.kind for span in stages[0][1].comm.layout.spans] == ["dense"] * 6


def test_one_stage_that_gossips_alone_makes_torch_s_step():
    rule = Ruled(DSGD(), AdamW().decayed(DECAY))
    (whole,), *_ = test_stages_gossip.train(BackProp(), rule, [[1.0]], stages=1)
    plain = test_stages_gossip.module()
    row = nn.Parameter(flat(plain))
    step = torch_s(AdamW(), [row], 0.1, DECAY)
    for t in range(test_stages_gossip.STEPS):
        nn.utils.vector_to_parameters(row.detach().clone(), plain.parameters())
        inputs, labels = test_stages_gossip.batch(0, t)
        found = torch.autograd.grad(cross_entropy(plain(inputs), labels), list(plain.parameters()))
        row.grad, step.param_groups[0]["lr"] = torch.cat([g.flatten() for g in found]), 0.1 / (1 + t)
        step.step()
    assert torch.equal(flat(whole), row.detach())


@pytest.mark.parametrize("most", [0.05, 1e3])
@pytest.mark.parametrize("gossips", [False, True])
def test_a_stage_that_has_the_whole_model_clips_its_gradient_as_torch_does(most, gossips):
    whole, plain = module(), module()
    spans, made = cut_evenly(DEPTH, 1), network_of(whole)
    shared = (0, spans, made)
    rest = {"lr": lambda t: 0.2, "clip_norm": most}
    if gossips:
        stage = PeerStage(0, Peers([[1.0]], DmSGD(0.9)), *shared, data(), STEPS, **rest)
    else:
        stage = Stage(*shared, lambda p: SGD(0.9).build(p, 0.2, 0.0), data(), STEPS, **rest)
    VirtualClock({0: BackProp().run(stage)}, lambda *_: 1.0).run()
    step = torch_s(SGD(0.9), plain.parameters(), 0.2)
    for t in range(STEPS):
        x, y = data()(t)
        step.zero_grad()
        cross_entropy(plain(x), y).backward()
        assert bool(nn.utils.clip_grad_norm_(plain.parameters(), most) > most) is (most < 1)
        step.step()
    same(whole, plain, tolerance=1e-6 if gossips else 0.0)


# ------------------------------------------------------------------------------------------------------------ in nodes


@pytest.mark.parametrize(
    "settings", [{}, {"every": 4, "reduce": "sum", "clip": 0.5, "anneal": 5}], ids=["", "more"]
)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_nodes_make_torch_s_step(rule, settings):
    case = Chain(14)
    ours = play(case, 3, updates=lambda _, p: Updates(rule.build(p, 0.01, DECAY), **settings))
    theirs = play(case, 3, updates=lambda _, p: Updates(torch_s(rule, p, 0.01, DECAY), **settings))
    assert same_bits(ours.modules, theirs.modules)
    assert not same_bits(ours.modules, case.modules())


# ----------------------------------------------------------------------------------------------- from the command line

TRAIN = {
    "lr": 0.01,
    "rounds": 8,
    "batch_size": 16,
    "record_every": 2,
    "weight_decay": 0.01,
    "dtype": "float64",
}
CUT = {"problem": {"name": "mlp", "hidden": [8, 8]}, "stages": {"count": 2}, "program": {"name": "backprop"}}
WORKERS = {"topology": {"name": "ring", "workers": 4}, "algorithm": {"name": "dsgd"}}
KINDS = {
    "rounds": {"problem": {"name": "mlp", "hidden": [8]}, **WORKERS},
    "asynchronous": {"problem": {"name": "mlp", "hidden": [8]}, **WORKERS, "algorithm": {"name": "ad-psgd"}},
    "stages": CUT,
    "gossip": {**CUT, **WORKERS},
    "nodes": {"problem": {"name": "mlp", "hidden": [8]}, "dataflow": {"workers": 2}},
}
OWN_CLOCK = {"wall_s", "simulated_s", "instances_per_s", "occupancy", "mpi_bytes_sent"}


def write(path, kind="rounds", **changes):
    table = {"name": "small", "train": TRAIN, **KINDS[kind]}
    table |= {key: {**table.get(key, {}), **value} for key, value in changes.items()}
    path.write_text(tomli_w.dumps(table))
    return path


def written(out):
    (path,) = (out / "runs").glob("*/config.toml")
    return tomllib.loads(path.read_text())


def seen(out):
    """The records of the only run, but for clocks of its own."""
    ((_, rows),) = metrics(out).items()
    return [{k: v for k, v in row.items() if k not in OWN_CLOCK} for row in rows]


def run(file, out, *more):
    said = decentral("run", file, "--out", out, *more)
    assert said.code == 0, said.err
    return seen(out)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_the_section_and_repeats_itself(home, kind):
    found = run(write(home / "x.toml", kind, optimizer={"name": "adamw"}), home / "out")
    table = written(home / "out")
    assert table["optimizer"] == {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    assert "clip_norm" not in table["train"]
    (path,) = (home / "out" / "runs").glob("*/config.toml")
    assert run(path, home / "again") == found
    assert run(write(home / "x.toml", kind), home / "plain") != found
    table = written(home / "plain")
    assert table.get("optimizer") == (
        {"name": "sgd", "momentum": 0.0, "nesterov": False} if kind in ("stages", "nodes") else None
    )


@pytest.mark.parametrize("kind", ["rounds", "asynchronous", "gossip"])
def test_plain_sgd_that_is_asked_for_has_the_bits_of_none(home, kind):
    plain = run(write(home / "x.toml", kind), home / "plain")
    assert run(write(home / "x.toml", kind, optimizer={"momentum": 0.0}), home / "out") == plain
    assert written(home / "out")["optimizer"] == {"name": "sgd", "momentum": 0.0, "nesterov": False}


@pytest.mark.parametrize("kind", ["rounds", "asynchronous", "stages", "gossip"])
def test_gradients_are_clipped_in_every_kind_that_has_whole_ones(home, kind):
    change = {"stages": {"count": 1}} if "stages" in KINDS[kind] else {}
    plain = run(write(home / "x.toml", kind, **change), home / "plain")
    for norm, nothing in ((0, True), (1e9, True), (0.01, False)):
        file = write(home / "x.toml", kind, **change, train={"clip_norm": norm})
        assert (run(file, home / str(norm)) == plain) is nothing
        assert written(home / str(norm))["train"]["clip_norm"] == norm
    assert "clip_norm" not in written(home / "plain")["train"]


def test_one_stage_of_several_workers_is_rounds_with_the_rule_and_clipping_too(home):
    more = {"optimizer": {"name": "adam"}, "train": {"clip_norm": 0.5}}
    rounds = run(write(home / "x.toml", "rounds", problem=CUT["problem"], **more), home / "rounds")
    stages = run(write(home / "y.toml", "gossip", stages={"count": 1}, **more), home / "stages")
    assert float(stages[-1]["consensus_sq"]) == pytest.approx(float(rounds[-1]["consensus_sq"]), rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("rounds", {"optimizer": {"name": "adma"}}, "optimizer.name = 'adma' is not known; did you mean 'adam'?"),
        ("rounds", {"optimizer": {"momentum": 1.0}}, "[optimizer] momentum = 1.0 must be in [0, 1)"),
        ("rounds", {"optimizer": {"name": "adam"}, "train": {"compile": True}}, "or do without [optimizer]"),
        ("rounds", {"optimizer": {"name": "adam"}, "algorithm": {"name": "diloco", "beta1": 0.8}}, "beta1 = 0.8 is Ad"),
        ("rounds", {"optimizer": {"name": "adam"}, "algorithm": {"name": "slowmo", "base": "diloco"}}, "SlowMo has an"),
        ("rounds", {"optimizer": {"momentum": 0.9}, "algorithm": {"name": "d2"}}, "above -0.3333"),
        ("rounds", {"train": {"clip_norm": -1.0}}, "train.clip_norm = -1.0 must be finite and not negative"),
        ("asynchronous", {"optimizer": {"beta1": 1.0, "name": "adam"}}, "beta1 = 1.0 must be in [0, 1)"),
        ("gossip", {"optimizer": {"name": "adam"}, "algorithm": {"name": "diloco", "eps": 0.1}}, "eps = 0.1 is AdamW"),
        ("stages", {"train": {"clip_norm": 1.0}}, "use stages.count = 1, or remove the key"),
        ("gossip", {"train": {"clip_norm": 1.0}}, "use stages.count = 1, or remove the key"),
        ("nodes", {"train": {"clip_norm": 1.0}}, "use dataflow.clip"),
    ],
)  # fmt: skip
def test_refusals(home, kind, change, words):
    said = decentral("run", write(home / "x.toml", kind, **change), "--out", "out")
    assert (said.code, words in said.err.replace("\n", " "), len(said.err) < 300) == (2, True, True), said.err
    assert not (home / "out").exists()


def test_a_method_with_an_optimizer_of_its_own_takes_plain_sgd(home):
    run(
        write(home / "x.toml", algorithm={"name": "diloco", "every": 3}, optimizer={"name": "sgd"}),
        home / "out",
    )


def test_faults_push_sum_s_mass_and_standing_workers_know_the_rule(home):
    more = {"optimizer": {"name": "adamw"}, "algorithm": {"name": "push-sum"}}
    found = run(
        write(home / "x.toml", faults={"loss": 0.2, "absent_workers": [1], "leave_round": 2}, **more),
        home / "out",
    )
    assert float(found[-1]["mass"]) == pytest.approx(1, abs=1e-12)


MANY = """
seeds = [3]
[problem]
name = "{problem}"
[topology]
name = "ring"
workers = 8
[train]
lr = 0.02
rounds = 9
batch_size = 8
dtype = "float64"
oracle = "loop"
record_every = 3
checkpoint_every = 4
weight_decay = 0.01
clip_norm = 0.3
[sweep.optimizer]
name = ["adamw", "adam", "sgd"]
[[sweep.algorithm]]
name = "dsgd"
[[sweep.algorithm]]
name = "decentlam"
"""


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """The folder of runs on 1, 2 and 4 ranks."""
    files = {name: MANY.format(problem=name) for name in ("quadratic", "logistic-regression")}
    table = {"name": "small", "train": TRAIN, **KINDS["gossip"], "optimizer": {"name": "adamw"}}
    return run_all_everywhere(tmp_path_factory.mktemp("rules"), {**files, "gossip": tomli_w.dumps(table)})


@pytest.mark.mpi
@pytest.mark.parametrize("problem", ["quadratic", "logistic-regression"])
def test_rules_have_the_same_bits_on_one_two_and_four_ranks(everywhere, problem):
    alone, *others = (metrics(everywhere / f"out{ranks}" / problem) for ranks in (1, 2, 4))
    assert len(alone) == 6
    for other in others:
        compare(alone, other, tolerance=0)


@pytest.mark.mpi
def test_stages_that_gossip_behind_a_rule_have_the_same_bits_on_ranks(everywhere):
    alone, *others = (seen(everywhere / f"out{ranks}" / "gossip") for ranks in (1, 2, 4))
    assert others == [alone, alone]
