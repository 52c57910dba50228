"""A frozen parameter stays as it is and the others make the steps of the equations: under all rules, in all places."""

import pytest
import torch
from dataflow_networks import Chain, play
from plain_workers import ROUNDS, RULES, WORKERS, Plain, Workers, configured, of_workers
from test_metrics import HERE
from test_rules import DECAY
from torch import nn
from torch.nn.utils import vector_to_parameters

import decentral.runs.asynchronous.training as asynchronous
import decentral.runs.rounds.training as rounds
import decentral.runs.stages.training as stages
from decentral.comm import LocalComm
from decentral.dataflow.updates import Updates
from decentral.optimizers import OPTIMIZERS
from decentral.runs.journal import Journal

ANY = pytest.mark.parametrize("name", RULES)
BY_LAYERS = pytest.mark.parametrize("name", [name for name in RULES if name != "nlcg"])  # it needs all layers


@ANY
@pytest.mark.parametrize("method", ["dsgd", "pmsgd"])
def test_in_rounds(name, method):
    config = configured(name, **of_workers(method))
    training, plain = rounds.Training(config, HERE, Journal()), Workers(config, WORKERS)
    mix = LocalComm(config.topology.mixing()).mix if method == "dsgd" else lambda x: x
    expected = plain.train(ROUNDS, mix, averaged=method == "pmsgd")
    assert training.run().status == "finished"
    assert training.x.shape == (WORKERS, 64 * 6 + 6 + 6 * 10 + 10)
    torch.testing.assert_close(training.x, expected, rtol=0, atol=1e-10)
    module = training.objective.evaluation.module
    vector_to_parameters(training.x[1].clone(), [p for p in module.parameters() if p.requires_grad])
    plain.same(module, 1)


@ANY
def test_without_rounds(name):
    config = configured(name, topology={"name": "complete", "workers": 1}, algorithm={"name": "ad-psgd"})
    training, plain = asynchronous.Training(config, HERE, Journal()), Workers(config, 1)
    assert training.run().status == "finished"
    worker = training.workers[0]
    assert worker.t >= ROUNDS
    torch.testing.assert_close(worker.side.model(), plain.train(worker.t), rtol=0, atol=1e-10)


@ANY
def test_in_stages(name):
    config = configured(name, program={"name": "backprop"}, stages={"count": 1 if name == "nlcg" else 2})
    training, plain = stages.Training(config, HERE, Journal()), Workers(config, 1)
    assert training.run().status == "finished"
    plain.train(ROUNDS)
    plain.same(training.stages[0].network.modules())


@ANY
@pytest.mark.parametrize("method", ["dsgd", "pmsgd"])
def test_in_stages_that_gossip(name, method):
    count = 1 if name == "nlcg" else 2
    config = configured(name, program={"name": "backprop"}, stages={"count": count}, **of_workers(method))
    training, plain = stages.Training(config, HERE, Journal()), Workers(config, WORKERS)
    mix = LocalComm(config.topology.mixing()).mix if method == "dsgd" else lambda x: x
    plain.train(ROUNDS, mix, averaged=method == "pmsgd")
    assert training.run().status == "finished"
    for i in range(WORKERS):
        plain.same(training.stages[i * count].network.modules(), i)


class Frozen(Chain):
    """The chain, whose first layer learns its weight alone and whose second its bias alone."""

    def modules(self):
        made = super().modules()
        made["a"].bias.requires_grad_(False)
        made["b"].weight.requires_grad_(False)
        return made


@BY_LAYERS
def test_in_nodes(name):
    rule, case, made, lrs = OPTIMIZERS[name](**RULES[name]), Frozen(5), [], (0.1, 0.03)

    def updates(_, parameters):
        made.append(Updates(rule.build(parameters, 0.5, DECAY)))
        return made[-1]

    def phases():
        for lr in lrs:
            for one in made:
                one.lr = lr
            yield range(case.count)

    found = play(case, phases=phases(), updates=updates).modules
    modules, first = case.modules(), case.modules()
    plain = [Plain(rule, modules[node]) for node in "abc"]
    for lr in lrs:
        for key in range(case.count):
            loss = case.loss(modules, key)
            g = torch.autograd.grad(loss, [p for one in plain for p in one.free])
            parts = torch.cat([part.flatten() for part in g]).split([one.x.numel() for one in plain])
            for one, part in zip(plain, parts, strict=True):
                one.step(part, loss.detach(), lr)
    for node in "abc":
        both = zip(
            found[node].parameters(), modules[node].parameters(), first[node].parameters(), strict=True
        )
        for p, q, begun in both:
            torch.testing.assert_close(p, q, rtol=0, atol=1e-10)
            assert torch.equal(p, begun) is not p.requires_grad
    assert sum(not p.requires_grad for p in nn.ModuleDict(found).parameters()) == 2
